"""Every option of Umbel in one table: the settings read it, ``umbel --help`` and the README show it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Option:
    """``name`` is the command line's word; ``kind``: text, url, integer, switch, list, folder or json.

    A ``secret`` may also be read from the file that the variable with ``_FILE`` at its end names.
    """

    name: str
    kind: str
    default: str
    help: str
    secret: bool = False

    @property
    def variable(self) -> str:
        return "UMBEL_" + self.name.upper().replace("-", "_")

    @property
    def flag(self) -> str:
        return f"--{self.name}"


DATA_DEFAULT = "$XDG_DATA_HOME/umbel, else ~/.local/share/umbel"

OPTIONS = (
    Option("broker", "url", "", "The broker to watch, such as redis://host:6379/0 or amqp://…", secret=True),
    Option(
        "result-backend",
        "url",
        "",
        "Where results are kept (Redis); ends that Umbel missed are read there.",
        secret=True,
    ),
    Option("address", "text", "127.0.0.1", "The address to listen on. Any but loopback needs a user first."),
    Option("port", "integer", "8000", "The port to listen on; 0 takes a free one."),
    Option(
        "database", "url", "", "The database for history, as a URL. Without: SQLite in the data folder.", True
    ),
    Option("data", "folder", "", f"The data folder, for owner's eyes only. Without: {DATA_DEFAULT}."),
    Option("prefix", "text", "", "The path Umbel lives under behind a proxy, such as /umbel."),
    Option("read-only", "switch", "no", "Turns every control off, for everyone."),
    Option("bulk-most", "integer", "50000", "How many tasks one act takes at most; more are refused."),
    Option("bulk-rate", "integer", "500", "How many tasks of acts on many are sent a second at most."),
    Option(
        "bulk-hold",
        "integer",
        "5",
        "Seconds that an act on many is held before it is sent, 0 to 30: anybody may withdraw it until then.",
    ),
    Option(
        "hold",
        "integer",
        "0",
        "Seconds that a revoke or terminate of one task, or a command on a worker's page, is held: 0 to 30.",
    ),
    Option(
        "permissions",
        "list",
        "",
        "The role that a command needs (operator, admin or nobody), such as purge=admin,shutdown=nobody.",
    ),
    Option(
        "permission-rule",
        "text",
        "",
        "A site's own rule: the dotted path of a function (user, command, targets) saying True or why not.",
    ),
    Option(
        "reasons",
        "list",
        "",
        "Whether a command wants a reason (required, asked or none), such as purge=required,terminate=none.",
    ),
    Option(
        "secure",
        "switch",
        "no",
        "Umbel is reached by HTTPS only, through a proxy that says X-Forwarded-Proto.",
    ),
    Option(
        "hosts", "list", "", "Host names that browsers may use for Umbel, beside localhost and the address."
    ),
    Option(
        "origins", "list", "", "Other origins trusted with posts and sockets, such as https://umbel.example."
    ),
    Option(
        "trusted-proxies",
        "list",
        "",
        "Addresses or networks of proxies whose X-Forwarded-For is believed, such as 127.0.0.1,10.0.0.0/8.",
    ),
    Option("redact", "list", "", "More words that mark an argument or setting as secret, such as iban,pin."),
    Option("retention-days", "integer", "14", "For how many days ended tasks are kept."),
    Option("retention-failures-days", "integer", "90", "For how many days failed and lost tasks are kept."),
    Option("retention-rows", "integer", "10000000", "How many tasks are kept at most."),
    Option("key-prefix", "text", "", "The cluster's global_keyprefix (Redis)."),
    Option("event-exchange", "text", "celeryev", "The cluster's event_exchange."),
    Option("control-exchange", "text", "celery", "The cluster's control_exchange."),
    Option(
        "result-key-prefix",
        "text",
        "",
        "The global_keyprefix of the cluster's result_backend_transport_options.",
    ),
    Option("transport-options", "json", "", "The cluster's broker_transport_options, as JSON.", secret=True),
    Option("broker-ssl", "json", "", "The cluster's broker_use_ssl, as JSON.", secret=True),
    Option(
        "channels",
        "url",
        "",
        "A Redis between umbel monitor and umbel web; not the broker's. Without: all in one process.",
        True,
    ),
    Option(
        "session-idle-hours",
        "integer",
        "12",
        "Hours without a page until a sign-in ends; 0 for the whole week that it lasts.",
    ),
    Option("secret-key", "text", "", "Signs sessions. Without: made once and kept in the data folder.", True),
)

BY_NAME = {option.name: option for option in OPTIONS}


def table() -> str:
    """The options as the README shows them (``python -m dashboard.options`` prints it)."""
    rows = ["| Option | Variable | Default | |", "| --- | --- | --- | --- |"]
    for option in OPTIONS:
        default = f"`{option.default}`" if option.default else ""
        star = " *" if option.secret else ""
        rows.append(f"| `{option.flag}` | `{option.variable}`{star} | {default} | {option.help} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())  # noqa: T201
