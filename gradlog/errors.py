"""Every error that gradlog raises on purpose: a base class of its own plus the builtin it refines.

Each message says what was expected, what was found and what to do. ``exit_code`` is what the command
line returns for it: 1 for a failed operation, 3 where the question cannot be answered from this input.
"""


class GradlogError(Exception):
    """Base class of all expected gradlog errors."""

    exit_code = 1


class NotARunError(GradlogError, FileNotFoundError):
    """The path holds no gradlog run."""

    exit_code = 3


class RunExistsError(GradlogError, FileExistsError):
    """A run is already stored under this path and the mode forbids touching it."""


class NewerFormatError(GradlogError, ValueError):
    """The run was written in a major format version that this gradlog does not know."""

    exit_code = 3


class CorruptRunError(GradlogError, ValueError):
    """Bytes of the store contradict their checksum, their manifest or the format."""


class TooFewStepsError(GradlogError, ValueError):
    """The run has too few rows for the quantity that was asked for."""

    exit_code = 3


class SpecMismatchError(GradlogError, ValueError):
    """Two sketches, layouts or segments that should agree do not."""


class GradientError(GradlogError, ValueError):
    """The gradients handed to ``step`` do not fit the layout of the run."""


class StepOrderError(GradlogError, ValueError):
    """Step numbers must increase within one segment."""


class UnsupportedError(GradlogError, RuntimeError):
    """An optimizer, framework or setting cannot be recorded, for the reason given."""


class UnusableInputError(GradlogError, ValueError):
    """A file or an option cannot serve what it was given for."""


class MissingDependencyError(GradlogError, ImportError):
    """An optional package is needed; the message carries the install command."""


class StoreUnavailableError(GradlogError, ConnectionError):
    """A store elsewhere refuses, or does not answer: nothing is known about what it holds. Try again later."""

    exit_code = 3


class SchedulerError(GradlogError, ConnectionError):
    """No dask scheduler answers at the address that was given."""


class MemoryLimitError(GradlogError, MemoryError):
    """The predicted peak memory of an analysis exceeds the limit."""


class GradlogWarning(UserWarning):
    """Something that does not stop the work but that the reader of the numbers must know."""
