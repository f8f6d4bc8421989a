"""Forms of people: signing in, taking a one-time link, adding and changing users."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth import get_user_model
from django.contrib.auth.forms import UsernameField
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password

from dashboard.access import ROLES

LONGEST = 1024  # characters of a password; more is only work


class SignIn(forms.Form):
    """Name and password. What is wrong with them is never said."""

    username = UsernameField(max_length=150)
    password = forms.CharField(max_length=LONGEST, strip=False)
    next = forms.CharField(required=False, max_length=2000)


class Welcome(forms.Form):
    """The first use of a link: a password, and a name when the account has none yet."""

    username = UsernameField(max_length=150)
    password = forms.CharField(max_length=LONGEST, strip=False)
    again = forms.CharField(max_length=LONGEST, strip=False)

    def __init__(self, user: User | None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        if user is not None:
            del self.fields["username"]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        password = data.get("password", "")
        if password and password != data.get("again"):
            self.add_error("again", "The two passwords differ.")
        elif password:
            person = self.user or get_user_model()(username=data.get("username", ""))
            try:
                validate_password(password, person)
            except forms.ValidationError as wrong:
                self.add_error("password", wrong)
        return data


class NewUser(forms.Form):
    """A name and a role."""

    username = UsernameField(max_length=150, validators=[User.username_validator])
    role = forms.ChoiceField(choices=[(name, name) for name in ROLES])


class ChangeUser(forms.Form):
    """One change to one person."""

    change = forms.ChoiceField(choices=[(c, c) for c in ("role", "deactivate", "activate", "link")])
    role = forms.ChoiceField(choices=[(name, name) for name in ROLES], required=False)
