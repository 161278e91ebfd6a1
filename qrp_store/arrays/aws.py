"""How S3 is reached: keys, region and endpoint, from AWS_* variables, then from the profile in ~/.aws."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from qrp_store.errors import InvalidInput, Unavailable, conceal

_METADATA = "169.254.169.254"  # an instance's own service in Amazon's cloud
_CHECK = "check AWS_ENDPOINT_URL, keys and the network, then run the same command again"
_REGION = "set AWS_DEFAULT_REGION to the bucket's region, and AWS_ENDPOINT_URL to the server that has the bucket"
_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_ANSWERS = {  # S3's error codes: what they mean, and what to do
    "ExpiredToken": ("the session token has expired", "get new keys, for example with: aws sso login"),
    "TokenRefreshRequired": ("the session token has expired", "get new keys, for example with: aws sso login"),
    "InvalidToken": ("the session token is not valid", "mend AWS_SESSION_TOKEN, or unset it"),
    "RequestTimeTooSkewed": ("this machine's clock and the server's differ too much", "set the clock (NTP)"),
    "RequestExpired": ("this machine's clock and the server's differ too much", "set the clock (NTP)"),
    "InvalidAccessKeyId": ("the server does not know this access key", _KEYS),
    "SignatureDoesNotMatch": ("the secret key does not fit the access key", _KEYS),
    "AccessDenied": ("access denied", "ask for GetObject and ListBucket; to write, PutObject and DeleteObject too"),
    "PermanentRedirect": ("the bucket is in another region or on another server", _REGION),
    "TemporaryRedirect": ("the bucket is in another region or on another server", _REGION),
    "AuthorizationHeaderMalformed": ("the region is wrong for this bucket", _REGION),
    "SlowDown": ("the server asks to slow down", "use fewer workers, then run the same command again"),
}
_OF_STATUS = {"401": "AccessDenied", "403": "AccessDenied", "301": "PermanentRedirect", "307": "PermanentRedirect"}
_NO_BODY = "the server gives no reason: keys, session token, clock or rights"


@dataclass(frozen=True)
class Access:
    """What the client is given; empty where it shall look for itself."""

    config: Mapping[str, str] = field(default_factory=dict)
    endpoint: str | None = None


def access(env: Mapping[str, str] | None = None) -> Access:
    """Keys, region and endpoint, from the environment before the profile. Raises InvalidInput for a wrong one."""
    env = os.environ if env is None else env
    has_keys = bool(env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"))
    profile, services = _profile(env)
    config: dict[str, str] = {}
    if not has_keys:
        for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"):
            if profile.get(name):
                config[name] = profile[name]
        _require_keys(profile, config)
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or profile.get("region")
    if region:
        config["aws_region"] = region
    variable = "AWS_ENDPOINT_URL_S3" if env.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"
    endpoint = env.get(variable)
    if not endpoint and env.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
        variable, endpoint = (
            "endpoint_url in ~/.aws/config",
            services.get("endpoint_url") or profile.get("endpoint_url"),
        )
    if endpoint:
        config["aws_endpoint"] = _checked(variable, endpoint.strip())
    return Access(config, config.get("aws_endpoint"))


def _checked(variable: str, endpoint: str) -> str:
    hint = "like https://objects.example.org or http://127.0.0.1:9000"
    try:
        parts = urlsplit(endpoint)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
        parts = urlsplit("")
    if "@" in endpoint or "?" in endpoint:
        raise InvalidInput(f"{variable} holds more than a server (not shown, since it may be a key)", hint=hint)
    if not fits or re.search(r"\s", endpoint):
        why = "has no http:// or https://" if parts.scheme not in ("http", "https") else "names no server"
        raise InvalidInput(f"{variable} {endpoint!r} {why}", hint=hint)
    return endpoint


def _profile(env: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The profile's settings, and those of its `services` for S3. Raises InvalidInput when a named one is missing."""
    name = env.get("AWS_PROFILE") or env.get("AWS_DEFAULT_PROFILE") or "default"
    config = _read(env.get("AWS_CONFIG_FILE") or "~/.aws/config")
    credentials = _read(env.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")
    sections = [config.get(f"profile {name}"), config.get(name) if name == "default" else None, credentials.get(name)]
    if name != "default" and not any(section is not None for section in sections):
        known = sorted(
            {s.removeprefix("profile ") for s in [*config, *credentials] if not s.startswith(("sso", "serv"))}
        )
        raise InvalidInput(
            f"there is no profile {name!r} in ~/.aws/config or ~/.aws/credentials",
            hint=f"AWS_PROFILE names one of: {', '.join(known) or 'none'}",
        )
    merged = {key: value for section in sections if section is not None for key, value in section.items()}
    services = config.get(f"services {merged.get('services', '')}", {})
    return merged, _nested(services.get("s3", ""))


def _read(path: str) -> dict[str, dict[str, str]]:
    """The sections of a file of the AWS tools; none when it is missing. Raises InvalidInput when it is malformed."""
    parser = configparser.RawConfigParser(strict=False, default_section="\0")
    try:
        parser.read_string(Path(path).expanduser().read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, RuntimeError):  # no such file, or no home
        return {}
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{path} is no file of sections [NAME] with lines NAME = VALUE", hint="aws configure"
        ) from error
    return {section: dict(parser.items(section)) for section in parser.sections()}


def _nested(text: str) -> dict[str, str]:
    """The indented lines below a setting."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, sign, value in pairs if sign}


def _require_keys(profile: Mapping[str, str], config: Mapping[str, str]) -> None:
    indirect = [
        name for name in ("credential_process", "sso_session", "sso_start_url", "role_arn") if profile.get(name)
    ]
    if indirect and "aws_access_key_id" not in config:
        raise InvalidInput(
            f"the AWS profile gets its keys by {indirect[0]}, which is not supported",
            hint='eval "$(aws configure export-credentials --format env)", then run the same command again',
        )


def explained(error: BaseException) -> tuple[str, str]:
    """What an error of the S3 client means, in one line, and what to do."""
    text = " ".join(str(error).split())
    if _METADATA in text:  # where the client looks for keys when there are none
        return "no keys for S3 in the environment", _KEYS
    code = re.search(r"<Code>(\w+)</Code>", text)
    detail_match = re.search(r"<Message>([^<]*)</Message>", text)
    status = re.search(r"status code: (\d{3})", text)
    if code is not None:
        what, hint = _ANSWERS.get(code[1], ("", _CHECK))
        detail = f"{code[1]}: {detail_match[1].strip()}" if detail_match else code[1]
        return conceal(f"{what} ({detail})" if what else detail), hint
    if "redirect" in text.lower():
        return _ANSWERS["PermanentRedirect"]
    if status is not None and status[1] in _OF_STATUS:
        what, hint = _ANSWERS[_OF_STATUS[status[1]]]
        return (f"{what}; {_NO_BODY}", _CHECK) if status[1] in ("401", "403") else (what, hint)
    plain = re.split(r"\s*(?:Debug source:|<\?xml|<Error>)", text)[0].rstrip(" :")
    plain = re.sub(r"^Generic S3 error: |Error performing .*? in [\d.]+\S+?(?:,| -) ", "", plain)
    return conceal(plain)[:300], _CHECK


def panicked(error: BaseException) -> Unavailable | None:
    """What to say when the client, which is written in Rust, gave up in the middle; None for other errors."""
    if type(error).__name__ != "PanicException":
        return None
    return Unavailable(f"the S3 client failed: {' '.join(str(error).split())[:200]}", hint=_CHECK)
