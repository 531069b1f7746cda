"""A scheme of one's own: the momentum residual network."""

from schemenet import SCHEMES, Scheme


@SCHEMES.register("momentum")
class Momentum(Scheme):
    """Forward Euler whose slope is a running average of the slopes so far.

        v_{n+1} = gamma v_n + (1 - gamma) f(u_n),   u_{n+1} = u_n + h v_{n+1},   v_0 = f(u_0)

    Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks", ICML 2021, arXiv:2102.07870 (where
    v_0 is 0 or learned; f(u_0) makes the method consistent from the first step on).
    """

    order = 1
    stages = 1
    history = 1

    def __init__(self, gamma: float = 0.9):
        super().__init__()
        if not 0 <= gamma < 1:
            raise ValueError(f"gamma expected to be in [0, 1), got {gamma}")
        self.gamma = gamma

    def step(self, f, node, y, solver_state):
        slope = f(node, y)
        v = self.gamma * solver_state[0] + (1 - self.gamma) * slope if solver_state else slope
        return y + node.h * v, (v,)
