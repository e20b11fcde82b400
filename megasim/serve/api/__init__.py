"""The API for programs, below `/api/v1`. Its description is at `/api/v1/openapi.json`."""

from __future__ import annotations

from fastapi import APIRouter

from megasim.serve.api import answers, jobs, sessions, sql, views

ROUTERS: tuple[APIRouter, ...] = tuple(
    module.router for module in (views, answers, sql, jobs, sessions)
)
