"""The front door: leads everyone to the page their work starts on."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import RedirectResponse

from app.auth import MaybeUser, public_page_router
from app.done import DONE
from app.templating import redirect

router = public_page_router()

FIRST_PAGE = {"labeler": "/work", "reviewer": "/projects", "admin": "/projects"}


@router.get("/")
def home(request: Request, user: MaybeUser) -> RedirectResponse:
    """Lead strangers to the sign-in, everyone else to their first page; what is to be said there goes along."""
    done = request.query_params.get("done")
    return redirect(FIRST_PAGE[user.role] if user else "/sign-in", done=done if done in DONE else None)
