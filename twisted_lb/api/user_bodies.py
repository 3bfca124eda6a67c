"""The bodies in which operators say what to create and change of users and keys; see `bodies`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from twisted_lb.api.bodies import (
    LABEL,
    NOT_NULL,
    BadBody,
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


class ShadowPolicy(BaseModel):
    """The shadow policy of a user."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    capacity: Capacity = Field(description=f"a whole number from 1 to {MAX_CAPACITY}")
    rate_per_sec: Rate = Field(description=f"a number from 0 to {MAX_RATE_PER_SEC}")


SHADOW = "an object with capacity and rate_per_sec"


class UserToCreate(NewUser):
    """The body of `POST /users`; label and expires_at are those of the user's first key."""

    shadow: Annotated[ShadowPolicy | None, NOT_NULL] = Field(None, description=SHADOW)

    metadata: Metadata = Field({}, description=METADATA)
    label: Label = Field("", description=LABEL)
    expires_at: Annotated[Time | None, NOT_NULL] = Field(None, description=TIME)


class UserPatch(Policy):
    """The body of `PATCH /users/<name>`."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    disabled: Annotated[bool | None, NOT_NULL] = Field(None, description="true or false")
    metadata: Annotated[Metadata | None, NOT_NULL] = Field(None, description=METADATA)
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


class KeyPatch(BaseModel):
    """The body of `PATCH /users/<name>/keys/<key_id>`; the policy is that of a bucket of the key's own."""

    model_config = ConfigDict(strict=True, frozen=True, json_schema_extra=_OWN_BUCKET)

    label: Annotated[Label | None, NOT_NULL] = Field(None, description=LABEL)
    expires_at: Time | None = Field(None, description=f"{TIME}, or null")
    capacity: Capacity | None = Field(None, description=f"a whole number from 1 to {MAX_CAPACITY}, or null")
    rate_per_sec: Rate | None = Field(None, description=f"a number from 0 to {MAX_RATE_PER_SEC}, or null")


class Level(BaseModel):
    """The body of `PUT /users/<name>/level`."""

    model_config = ConfigDict(strict=True, frozen=True)

    current_capacity: Annotated[int, BeforeValidator(whole)] = Field(
        ge=-MAX_CAPACITY, le=MAX_CAPACITY, description=f"a whole number from -{MAX_CAPACITY} to {MAX_CAPACITY}"
    )


def read_user_patch(body: bytes) -> UserChange:
    """What to change of a user.  Raises BadBody."""
    patch = read_model(UserPatch, body)
    if not patch.model_fields_set:
        raise BadBody("There is nothing to change: give capacity, rate_per_sec, disabled, metadata or shadow.")
    shadow = None
    if "shadow" in patch.model_fields_set:
        shadow = NO_SHADOW if patch.shadow is None else shadow_of(patch.shadow)
    return UserChange(
        patch.capacity, patch.rate_per_sec, disabled=patch.disabled, metadata=patch.metadata, shadow=shadow
    )


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
