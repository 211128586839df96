"""What a page says after a redirect: `?done=KEY` picks one of these sentences; a link never carries text of its own."""

from __future__ import annotations

DONE = {
    "invitation-revoked": "The invitation is revoked. Its link no longer works.",
    "role-changed": "The role is changed. The account has been signed out everywhere.",
    "user-disabled": "The account is disabled and signed out everywhere.",
    "user-enabled": "The account is enabled again.",
    "password-changed": "Your password is changed. All other browsers have been signed out.",
    "signed-out": "You are signed out.",
    "signed-out-everywhere": "You are signed out everywhere.",
    "welcome": "Welcome. Your account is ready.",
    "project-created": "The project is made. Import prompts next.",
    "guidelines-saved": "The guidelines are saved as a new version. New tasks are handed out with it.",
    "project-open": "The project is open. Labelers can take tasks.",
    "project-paused": "The project is paused. Nobody gets a new task; work in hand can still be sent.",
    "tasks-opened": "The tasks are open. Labelers can take them now.",
    "nothing-to-open": "There was no task to open.",
    "saved": "Saved. Thank you.",
    "saved-late": "Saved, but not counted: your time for this task was over, and others have answered it since.",
    "taken-back": "Your answer is taken back. Change it and send it again.",
    "flagged": "Thank you. A reviewer will look at it; you can answer the task or skip it.",
    "skipped": "The task is skipped and goes to somebody else.",
    "snapshot-ready": "The snapshot is ready. Training runs can start from it.",
    "model-promoted": "This is now the project's active policy. The one before it is retired.",
    "token-revoked": "The token is revoked. Whoever uses it is refused from now on.",
    "none-left": "Nothing waits for you in this project just now.",
    "is-paused": "This project is paused. Come back when it is open again.",
}
