"""The pages that a person sees: to sign in, to have signed out, and what is wrong. Everything in them is escaped."""

import hashlib
from base64 import b64encode
from collections.abc import Iterable
from html import escape
from typing import Final

_STYLE: Final = """
:root { color-scheme: light dark; --paper: #fff; --ground: #eef1f5; --ink: #1b2430; --soft: #5a6675; --line: #aab4c0;
  --act: #1f5fbf; --link: #1f5fbf; --bad: #a51d1d; --bad-ground: #fdecec }
@media (prefers-color-scheme: dark) { :root { --paper: #1c232d; --ground: #12171e; --ink: #e8edf3; --soft: #a3afbd;
  --line: #4c5866; --act: #2f6fd0; --link: #8ab4f8; --bad: #ffb4b0; --bad-ground: #46191b } }
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; min-height: 100svh; display: flex; align-items: center; justify-content: center;
  padding: 1rem; background: var(--ground); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif }
main { width: 100%; max-width: 24rem; padding: 2rem 1.5rem; background: var(--paper); border-radius: .75rem;
  box-shadow: 0 .25rem 1.5rem #0002; overflow-wrap: anywhere }
h1 { margin: 0 0 .75rem; font-size: 1.5rem; line-height: 1.2 }
p { margin: 0 0 .5rem } .soft { color: var(--soft); font-size: .875rem; margin: 0 }
.bad { padding: .75rem; border-radius: .5rem; margin: 1rem 0; background: var(--bad-ground);
  color: var(--bad) }
ul { margin: 0 0 1rem; padding-left: 1.25rem }
label { display: block; margin: 0 0 1rem; font-weight: 600 }
input { display: block; width: 100%; margin-top: .25rem; padding: .625rem .75rem; font: inherit;
  font-weight: 400; color: inherit; background: transparent; border: 1px solid var(--line); border-radius: .5rem }
input[aria-invalid] { border-color: var(--bad) }
button { width: 100%; margin-bottom: 1rem; padding: .75rem; font: inherit; font-weight: 600; color: #fff;
  background: var(--act); border: 0; border-radius: .5rem; cursor: pointer }
a { color: var(--link) }
:focus-visible { outline: 3px solid var(--act); outline-offset: 2px }
"""
_HASH: Final = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
"""No script, no frame around it (auth/flows/auth-code), nothing kept."""
_SCOPES: Final = {
    "openid": "know who you are",
    "profile": "see your name and e-mail address",
    "read": "read data in your name",
    "update": "change data in your name",
    "offline_access": "go on while you are away",
    "sec": "see users and permissions",
}


def sign_in(action: str, cancel: str, name: str, scopes: Iterable[str], login: str, *, wrong: bool) -> str:
    """The form, posted to `action`; whoever would rather not goes to `cancel`."""
    asked = "".join(f"<li>{escape(_SCOPES.get(scope, scope))}</li>" for scope in scopes)
    alert = (
        '<p class="bad" role="alert" id="wrong">The user name or the password is wrong.</p>' if wrong else ""
    )
    marked = ' aria-describedby="wrong" aria-invalid="true"' if wrong else ""
    on_name, on_password = ("", " autofocus") if login else (" autofocus", "")
    return _page(
        "Sign in",
        f"""<h1>Sign in</h1>
<p><strong>{escape(name)}</strong> would like to:</p><ul>{asked}</ul>{alert}
<form method="post" action="{escape(action)}">
<label>User name<input name="username" value="{escape(login)}" autocomplete="username" autocapitalize="none"
 autocorrect="off" spellcheck="false" required{marked}{on_name}></label>
<label>Password<input name="password" type="password" autocomplete="current-password"
 required{marked}{on_password}></label>
<button>Sign in</button>
</form>
<p><a href="{escape(cancel)}">Cancel</a></p>""",
    )


def refused(error: str, description: str) -> str:
    """What keeps somebody from signing in at all."""
    return _page(
        "Cannot sign in",
        f'<h1>Cannot sign in</h1><p class="bad" role="alert">{escape(description)}</p>'
        f"<p>Error: <code>{escape(error)}</code></p>",
    )


def signed_out(sentence: str) -> str:
    """The end of a session."""
    return _page("Signed out", f"<h1>Signed out</h1><p>{escape(sentence)}</p>")


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · SANDBOX</title><style>{_STYLE}</style></head>
<body><main>{body}
<p class="soft">A sandbox: nothing here is real.</p></main></body></html>
"""
