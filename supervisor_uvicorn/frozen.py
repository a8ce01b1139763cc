"""A frozen value with some of its fields changed, for values of which each look makes several for each worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dataclasses import replace as replace  # of which a type checker knows what each field takes
else:
    Value = TypeVar("Value")

    def replace(value: Value, /, **changes: Any) -> Value:
        """As :func:`dataclasses.replace`, in a tenth of the time (0.7 to 1 us instead of 7 to 8 for 36 fields,
        Python 3.10 to 3.13), because it does not call ``__init__``: only for dataclasses all fields of which are given
        to ``__init__``, without slots, ``__post_init__`` and cached properties. Raises TypeError for what is no field.

        >>> from supervisor_uvicorn.model import HttpOutcome, Answer
        >>> replace(HttpOutcome(Answer.WRONG, "status 500"), reason="status 503").reason
        'status 503'
        """
        copy = object.__new__(type(value))
        fields = copy.__dict__
        fields.update(value.__dict__)
        fields.update(changes)
        if len(fields) != len(value.__dict__):
            raise TypeError(f"{type(value).__name__} has no field {', '.join(changes.keys() - value.__dict__.keys())}")
        return copy
