"""What a world is told to be: its models and LocalAI's own times.

Plain records, that a test fills in. Above them is the world.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SimModel", "Timing"]


@dataclass(frozen=True, slots=True)
class SimModel:
    """One installed model.

    ``capabilities`` are LocalAI's words (``chat``, ``vision``, ``image``, …), ``None`` where
    LocalAI cannot tell (5.1). ``slots`` is how many requests its backend works on at once.
    ``max_concurrent`` refuses further chats (trap 17), 0 for no limit. With
    ``vision_after_load`` the list names vision only once the model has been loaded (5.1).
    ``phantom`` is for names that LocalAI makes models of (trap 2).

    In distributed mode a load installs, stages ``size_bytes`` and then loads, and there are
    ``replicas`` of the model, each on a worker of its own and with its own ``slots``.
    """

    id: str
    capabilities: tuple[str, ...] | None = ("chat",)
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    slots: int = 1
    load_s: float = 0.0
    first_token_s: float = 0.0
    token_s: float = 0.0
    image_s: float = 0.0
    disabled: bool = False
    alias_of: str | None = None
    max_concurrent: int = 0
    fails_to_load: bool = False
    vision_after_load: bool = False
    phantom: bool = False
    replicas: int = 1
    install_s: float = 0.0
    stage_s: float = 0.0
    size_bytes: int = 0

    @property
    def can_see(self) -> bool:
        """Whether its backend looks at pictures at all."""
        return "vision" in (self.capabilities or ())


@dataclass(frozen=True, slots=True)
class Timing:
    """LocalAI's own times, in seconds. Real are 2 s for ``spawn_s``; the others are real.

    Of distributed mode: how long a request waits for a load, a failed load answers for all,
    a model that was unloaded for its revision and one that was shut down are ``is stopping``,
    a killed worker counts as healthy, and LocalAI looks for a worker where there is none.
    """

    spawn_s: float = 0.05
    cooldown_s: float = 10.0
    cooldown_most_s: float = 300.0
    eviction_wait_s: float = 29.0
    dead_s: float = 30.0
    shutdown_wait_s: float = 30.0
    model_load_wait_s: float = 60.0
    failure_kept_s: float = 15.0
    stopping_s: float = 16.0
    after_shutdown_s: float = 1.5
    node_lost_s: float = 64.0
    no_node_s: float = 2.5
