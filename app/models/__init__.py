"""All tables. Importing this package registers every one with the metadata."""

from app.models.accounts import ApiToken, AuditEvent, Invitation, SignInAttempt, User, WebSession
from app.models.api import IdempotencyKey
from app.models.chat import Chat, ChatAnswer, ChatModel, ChatSettings, ChatTurn
from app.models.desk import Draft, Flag, GuidelineRead, Membership, Quarantine
from app.models.evaluation import BlindEvaluation, Gate, GateVerdict, Promotion
from app.models.hooks import Webhook, WebhookDelivery
from app.models.importing import Import, Job, Upload
from app.models.labeling import (
    Assignment,
    Completion,
    Demonstration,
    GuidelineVersion,
    Project,
    Prompt,
    Ranking,
    Task,
    TaskCompletion,
)
from app.models.pipelines import Occurrence, Pipeline, PipelineStage, Schedule
from app.models.quality import Dismissal, QualityReport
from app.models.rounds import TaskScore
from app.models.training import (
    Checkpoint,
    ModelVersion,
    Run,
    RunAttempt,
    RunEvent,
    RunMetric,
    Snapshot,
    Worker,
)

__all__ = [
    "ApiToken",
    "Assignment",
    "AuditEvent",
    "BlindEvaluation",
    "Chat",
    "ChatAnswer",
    "ChatModel",
    "ChatSettings",
    "ChatTurn",
    "Checkpoint",
    "Completion",
    "Demonstration",
    "Dismissal",
    "Draft",
    "Flag",
    "Gate",
    "GateVerdict",
    "GuidelineRead",
    "GuidelineVersion",
    "IdempotencyKey",
    "Import",
    "Invitation",
    "Job",
    "Membership",
    "ModelVersion",
    "Occurrence",
    "Pipeline",
    "PipelineStage",
    "Project",
    "Promotion",
    "Prompt",
    "QualityReport",
    "Quarantine",
    "Ranking",
    "Run",
    "RunAttempt",
    "RunEvent",
    "RunMetric",
    "Schedule",
    "SignInAttempt",
    "Snapshot",
    "Task",
    "TaskCompletion",
    "TaskScore",
    "Upload",
    "User",
    "WebSession",
    "Webhook",
    "WebhookDelivery",
    "Worker",
]
