"""The bodies in which operators say what to create and change of users and keys; see `bodies`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema

from twisted_lb.api.bodies import (
    LABEL,
    NOT_NULL,
    BadBody,
    Body,
    Capacity,
    Label,
    NewUser,
    Policy,
    Rate,
    Time,
    read_model,
    whole,
)
from twisted_lb.limits.bucket import MAX_CAPACITY, MAX_RATE_PER_SEC
from twisted_lb.quotas import MAX_AMOUNT, MAX_USED, NO_QUOTA, REQUESTS, TOKENS, UTC, Quota, zone_named
from twisted_lb.timestamps import TIME
from twisted_lb.users import (
    MAX_METADATA_BYTES,
    NEVER,
    NO_BUCKET,
    NO_SHADOW,
    KeyBucket,
    KeyChange,
    Shadow,
    UserChange,
    metadata_text,
)


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    try:
        metadata_text(value)
    except ValueError:
        raise ValueError from None
    return value


Metadata = Annotated[dict[str, Any], AfterValidator(_metadata)]
METADATA = f"a JSON object of at most {MAX_METADATA_BYTES} bytes"


Amount = Annotated[int, Field(ge=1, le=MAX_AMOUNT), BeforeValidator(whole)]
AMOUNT = f"a whole number from 1 to {MAX_AMOUNT}"


def _time_zone(name: str) -> str:
    zone_named(name)
    return name


class QuotaToSet(Body):
    """A quota: so many requests or tokens in each day or month of a time zone."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"oneOf": [{"required": [REQUESTS]}, {"required": [TOKENS]}]},
    )

    requests: Annotated[Amount | None, NOT_NULL] = Field(None, description=AMOUNT)
    tokens: Annotated[Amount | None, NOT_NULL] = Field(None, description=AMOUNT)
    per: Literal["day", "month"] = Field(description="day or month")
    time_zone: Annotated[
        str,
        AfterValidator(_time_zone),
        WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,3}$"}),
    ] = Field(UTC, description="a name of the IANA database such as Europe/Berlin")


def _quota(quota: QuotaToSet) -> QuotaToSet:
    if (quota.requests is None) == (quota.tokens is None):
        raise ValueError(f"with {'neither requests nor' if quota.requests is None else 'both requests and'} tokens")
    return quota


QuotaBody = Annotated[QuotaToSet, AfterValidator(_quota)]
QUOTA = (
    f"an object with either requests or tokens, {AMOUNT}, per, day or month, and optionally time_zone,"
    " a name of the IANA database such as Europe/Berlin"
)


def _quota_of(body: QuotaToSet) -> Quota:
    if body.requests is not None:
        return Quota(body.requests, REQUESTS, body.per, body.time_zone)
    return Quota(body.tokens or 0, TOKENS, body.per, body.time_zone)


class ShadowPolicy(Body):
    """The shadow policy of a user."""

    model_config = ConfigDict(extra="forbid")

    capacity: Capacity = Field(description=f"a whole number from 1 to {MAX_CAPACITY}")
    rate_per_sec: Rate = Field(description=f"a number from 0 to {MAX_RATE_PER_SEC}")


SHADOW = "an object with capacity and rate_per_sec"


class UserToCreate(NewUser):
    """The body of `POST /users`; label and expires_at are those of the user's first key."""

    shadow: Annotated[ShadowPolicy | None, NOT_NULL] = Field(None, description=SHADOW)

    metadata: Metadata = Field({}, description=METADATA)
    label: Label = Field("", description=LABEL)
    expires_at: Annotated[Time | None, NOT_NULL] = Field(None, description=TIME)
    quota: QuotaBody | None = Field(None, description=f"{QUOTA}; or null")

    @property
    def new_quota(self) -> Quota | None:
        """The quota, if there is one."""
        return None if self.quota is None else _quota_of(self.quota)


class UserPatch(Policy):
    """The body of `PATCH /users/<name>`."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    disabled: Annotated[bool | None, NOT_NULL] = Field(None, description="true or false")
    metadata: Annotated[Metadata | None, NOT_NULL] = Field(None, description=METADATA)
    quota: QuotaBody | None = Field(None, description=f"{QUOTA}; or null, for none")
    shadow: ShadowPolicy | None = Field(None, description=f"{SHADOW}, or null for none")


# What `read_key_patch` checks: both of the policy, or both null.
_OWN_BUCKET: dict[str, Any] = {
    "minProperties": 1,
    "dependentRequired": {"capacity": ["rate_per_sec"], "rate_per_sec": ["capacity"]},
    "anyOf": [
        {"properties": {"capacity": {"type": "null"}, "rate_per_sec": {"type": "null"}}},
        {"properties": {"capacity": {"type": "integer"}, "rate_per_sec": {"type": "number"}}},
    ],
}


class KeyPatch(Body):
    """The body of `PATCH /users/<name>/keys/<key_id>`; the policy is that of a bucket of the key's own."""

    model_config = ConfigDict(json_schema_extra=_OWN_BUCKET)

    label: Annotated[Label | None, NOT_NULL] = Field(None, description=LABEL)
    expires_at: Time | None = Field(None, description=f"{TIME}, or null")
    capacity: Capacity | None = Field(None, description=f"a whole number from 1 to {MAX_CAPACITY}, or null")
    rate_per_sec: Rate | None = Field(None, description=f"a number from 0 to {MAX_RATE_PER_SEC}, or null")


class Level(Body):
    """The body of `PUT /users/<name>/level`."""

    current_capacity: Annotated[int, BeforeValidator(whole)] = Field(
        ge=-MAX_CAPACITY, le=MAX_CAPACITY, description=f"a whole number from -{MAX_CAPACITY} to {MAX_CAPACITY}"
    )


class QuotaUsed(Body):
    """The body of `PUT /users/<name>/quota`."""

    used: Annotated[int, Field(ge=0, le=MAX_USED), BeforeValidator(whole)] = Field(
        description=f"a whole number from 0 to {MAX_USED}"
    )


def read_user_patch(body: bytes) -> UserChange:
    """What to change of a user.  Raises BadBody."""
    patch = read_model(UserPatch, body)
    if not patch.model_fields_set:
        raise BadBody("There is nothing to change: give capacity, rate_per_sec, disabled, metadata, shadow or quota.")
    shadow, quota = None, None
    if "shadow" in patch.model_fields_set:
        shadow = NO_SHADOW if patch.shadow is None else shadow_of(patch.shadow)
    if "quota" in patch.model_fields_set:
        quota = NO_QUOTA if patch.quota is None else _quota_of(patch.quota)
    policy = patch.capacity, patch.rate_per_sec
    return UserChange(*policy, disabled=patch.disabled, metadata=patch.metadata, shadow=shadow, quota=quota)


def shadow_of(policy: ShadowPolicy | None) -> Shadow | None:
    """The shadow policy of a body."""
    return None if policy is None else Shadow(policy.capacity, policy.rate_per_sec)


def read_key_patch(body: bytes) -> KeyChange:
    """What to change of a key.  Raises BadBody."""
    patch = read_model(KeyPatch, body)
    given = patch.model_fields_set
    if not given:
        raise BadBody("There is nothing to change: give label, expires_at, or capacity and rate_per_sec.")
    bucket = None
    if {"capacity", "rate_per_sec"} & given:
        if patch.capacity is not None and patch.rate_per_sec is not None:
            bucket = KeyBucket(patch.capacity, patch.rate_per_sec)
        elif {"capacity", "rate_per_sec"} <= given and patch.capacity is patch.rate_per_sec:
            bucket = NO_BUCKET
        else:
            raise BadBody("For a bucket of the key's own, give both capacity and rate_per_sec; for none, both as null.")
    expires_at = None
    if "expires_at" in given:
        expires_at = NEVER if patch.expires_at is None else patch.expires_at
    return KeyChange(expires_at=expires_at, label=patch.label, bucket=bucket)
