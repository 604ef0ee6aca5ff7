"""Scripts that use gradlog as a training job would."""
