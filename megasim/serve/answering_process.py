"""A process that makes pages and answers, so that the one which sends them is free for others."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

import duckdb
from fastapi import FastAPI

from megasim.errors import MegasimError
from megasim.serve.answers_apart import Asked, body_of
from megasim.serve.app import app_apart
from megasim.serve.refusals import as_megasim_error
from megasim.serve.security import server_log
from megasim.serve.service import Answering
from megasim.serve.settings import Settings
from megasim.serve.statement_pipe import PipedOwner

# How many answers one process makes at a time: a quick one does not wait for one that takes long.
_AT_A_TIME = 4
# What the first picture, map and tree need.
_AHEAD = (
    "bokeh.plotting",
    "megasim.answers.maps",
    "megasim.plots.interactive_map",
    "megasim.lineage.claims",
)


def answer_requests(pipe: Connection, settings: Settings, address: Any, key: bytes) -> None:
    """Answer what comes through a pipe, until it is closed; then end.

    Args:
        pipe: gives (number, what is asked), and takes (number, answer or error).
        address, key: of the store. See `StatementServer`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server_log.addHandler(logging.StreamHandler())
    answering = Answering(settings, PipedOwner(settings.store, address, key))
    app = app_apart(answering)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    turns = asyncio.Semaphore(_AT_A_TIME)
    threading.Thread(target=_import_ahead, daemon=True).start()
    sending = threading.Lock()
    while True:
        try:
            number, asked = pipe.recv()
        except (EOFError, OSError):  # the service has ended
            os._exit(0)
        asyncio.run_coroutine_threadsafe(_answer(app, turns, pipe, sending, number, asked), loop)


async def _answer(
    app: FastAPI,
    turns: asyncio.Semaphore,
    pipe: Connection,
    sending: threading.Lock,
    number: int,
    asked: Asked,
) -> None:
    found: object
    async with turns:
        try:
            found = await body_of(app, asked, app)
        except Exception as error:
            found = _known(error)
    with sending:
        pipe.send((number, found))


def _known(error: Exception) -> MegasimError:
    if isinstance(error, MegasimError | duckdb.Error):
        return as_megasim_error(error)
    server_log.error("an answer failed", exc_info=error)
    return MegasimError("megasim failed", "the log of the service says where")


def _import_ahead() -> None:
    for name in _AHEAD:
        importlib.import_module(name)
