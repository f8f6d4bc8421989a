"""People: one-time sign-in links and the throttle on signing in. ``access`` writes the links."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class LoginLink(models.Model):
    """A link that signs a person in once. Without a user it is the first one, and makes an admin."""

    digest = models.CharField(max_length=64, unique=True)  # SHA-256 of the token, which is kept nowhere
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE)
    expires_at = models.FloatField()
    used_at = models.FloatField(null=True)

    def __str__(self) -> str:
        return f"link for {self.user or 'the first admin'}"


class SignInAttempt(models.Model):
    """One failed try to sign in, kept as long as it counts."""

    account = models.CharField(max_length=32)  # keyed hash of the name: people type passwords there
    address = models.CharField(max_length=64)
    at = models.FloatField()

    class Meta:
        indexes = [
            models.Index(fields=["account", "at"], name="attempt_account"),
            models.Index(fields=["address", "at"], name="attempt_address"),
            models.Index(fields=["at"], name="attempt_at"),
        ]

    def __str__(self) -> str:
        return f"{self.account} from {self.address}"


class WebProcess(models.Model):
    """A process that serves pages, of several. By the database's clock; gone minutes after its last word."""

    name = models.CharField(max_length=128, unique=True)  # host:pid:random
    host = models.CharField(max_length=255, default="", blank=True)
    pid = models.IntegerField(default=0)
    key = models.CharField(max_length=16)  # fingerprint of its secret key, which cannot be told from it
    version = models.CharField(max_length=32, default="", blank=True)
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name
