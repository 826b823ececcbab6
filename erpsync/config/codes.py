"""The code of each kind of configuration problem: stable, never used for anything else."""

from typing import Literal

from erpsync.core.problem import Severity

CODES = {
    "E101": "a file cannot be found or read, or is none: a pipe, a device, a folder",
    "E102": "a file is not valid TOML",
    "E103": "a key or a section is unknown",
    "E104": "a value has the wrong type",
    "E105": "a value is not among the allowed ones or out of range",
    "E106": "an obligatory key is missing",
    "E107": "two files define the same table",
    "E108": "a name leads nowhere: no such instance, identity, job, calendar or pool",
    "E109": "a placeholder is unknown",
    "E110": "a time zone is unknown",
    "E111": "a secret stands where a reference to one belongs, or the reference has no known form",
    "E112": "a URL holds a password",
    "E113": "a URL is not https; plain http is for loopback only",
    "E114": "a schedule has no known form",
    "E115": "an instance changes a job that does not run there",
    "E116": "an identity cannot be used where the job runs",
    "E117": "two jobs write one table",
    "E118": "a name holds characters that names cannot have",
    "E119": "a secret cannot be had, or is too short to be kept out of what is told (fewer than four characters)",
    "E120": "a scope does not go with the grant",
    "E121": "jobs run after one another in a circle",
    "E122": "a former name belongs to another job",
    "E123": "a library that is needed is not installed",
    "E124": "a person's identity needs a seal_key",
    "E125": "a seal key is too short",
    "W101": "an include pattern matches no file",
    "W102": "an environment variable starts with ERPSYNC_ but means nothing",
    "W103": "a scope is obsolete",
    "W104": "a file with a secret can be read by others",
    "W105": "a selector matches no instance, or a job runs nowhere",
    "W106": "a job runs after one that is disabled",
    "W107": "there is no seal_key: a restart cannot re-use tokens and sessions",
}

REMEDIES = {
    "E101": "mend the path, which is relative to the file that names it, or the rights of the file",
    "E102": "the fault is where reading stopped, or just before",
    "E103": "mend the name, or take it away",
    "E108": "mend the name, or define what it names",
    "E113": "use https; `ca_file` of the instance takes a certificate authority of your own",
    "E117": "give each its own, for example with ${instance} in `url` or `table`",
    "E121": "take one `after` out of the circle",
    "E122": "`formerly` names what is gone, and each former name has one heir",
    "W101": "mend the pattern, or take it away",
    "W102": "mend the name, or unset it",
    "W105": "mend `instances`: names, globs and tag:…, with ! before what is left out",
}
"""What to do where the place of a problem tells nothing better; elsewhere its message says what is right."""


def severity_of(code: str) -> Severity:
    """E is an error and makes the configuration unusable, W a warning."""
    letter: Literal["error", "warning"] = "warning" if code.startswith("W") else "error"
    return letter
