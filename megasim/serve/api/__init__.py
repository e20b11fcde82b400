"""The API for programs, below `/api/v1`. Its description is at `/api/v1/openapi.json`."""

from __future__ import annotations

from fastapi import APIRouter

from megasim.serve.api import answers, jobs, sql, views

ROUTERS: tuple[APIRouter, ...] = (views.router, answers.router, sql.router, jobs.router)
