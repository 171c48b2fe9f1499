"""What befalls a process of the simulation, whatever it does: it dies, or hangs for a while."""


class Mortal:
    """In a `world` with a clock. `gone`: dead or left for good, the rank need not reach the end."""

    def __init__(self, world) -> None:
        self.world = world
        self.alive, self.gone, self.hung_until = True, False, 0.0

    def kill(self) -> None:
        self.alive = False
        self.world.forget(self)

    def hang(self, seconds: float) -> None:
        self.hung_until = self.world.clock.now + seconds

    def when_awake(self, action) -> None:
        """Whatever comes while the process hangs is found when it wakes."""
        clock = self.world.clock
        if self.alive and self.hung_until > clock.now:
            clock.after(self.hung_until - clock.now, lambda: self.when_awake(action))
        elif self.alive:
            self.wakes(action)

    def wakes(self, action) -> None:
        action()
