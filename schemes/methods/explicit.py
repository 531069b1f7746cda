"""Explicit Runge-Kutta methods by name."""

from __future__ import annotations

from fractions import Fraction as F

from schemes.core.tableau import ButcherTableau
from schemes.methods.runge_kutta import RungeKutta
from schemes.registry import SCHEMES


@SCHEMES.register("forward_euler")
class ForwardEuler(RungeKutta):
    r"""Forward Euler; one residual block is one step, with h absorbed in f.

        u_{n+1} = u_n + h f_n(u_n)

    Reference: He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv:1603.05027.
    """

    tableau = ButcherTableau(a=((),), b=(1,), order=1)


@SCHEMES.register("midpoint")
class Midpoint(RungeKutta):
    r"""Explicit midpoint rule.

        u_{n+1} = u_n + h f(t_n + h/2, u_n + h/2 f(t_n, u_n))

    Reference: Runge, "Ueber die numerische Auflösung von Differentialgleichungen", Math. Ann. 46, 1895.
    """

    tableau = ButcherTableau(a=((), (F(1, 2),)), b=(0, 1), order=2)


@SCHEMES.register("heun", "rk2", "heun2", "adaptive_heun")
class Heun(RungeKutta):
    r"""Heun's method of order 2 (explicit trapezoidal rule); the RK2 network proper.

        u_{n+1} = u_n + h/2 [f(t_n, u_n) + f(t_n + h, u_n + h f(t_n, u_n))]

    On adaptive grids it is the pair 2(1) with forward Euler, at two evaluations an accepted step.
    FractalNet's block is this on a one-parameter family of its filters only; see ``fractal``.
    Reference: Heun, "Neue Methoden zur approximativen Integration der Differentialgleichungen",
    Z. Math. Phys. 45, 1900.
    """

    tableau = ButcherTableau(
        a=((), (1,), (F(1, 2), F(1, 2))),
        b=(F(1, 2), F(1, 2), 0),
        order=2,
        embedded=(1, 0, 0),
        embedded_order=1,
        c=(0, 1, 1),
    )


@SCHEMES.register("fehlberg2")
class Fehlberg2(RungeKutta):
    r"""Fehlberg's pair of orders 1 and 2, the higher one advanced; the fourth stage begins the next step.

        u_{n+1} = u_n + h (1/512 k_1 + 255/256 k_2 + 1/512 k_3)

    Reference: Fehlberg, "Low-Order Classical Runge-Kutta Formulas with Stepsize Control and Their Application to Some
    Heat Transfer Problems", NASA TR R-315, 1969.
    """

    tableau = ButcherTableau(
        a=((), (F(1, 2),), (F(1, 256), F(255, 256)), (F(1, 512), F(255, 256), F(1, 512))),
        b=(F(1, 512), F(255, 256), F(1, 512), 0),
        order=2,
        embedded=(F(1, 256), F(255, 256), 0, 0),
        embedded_order=1,
        c=(0, F(1, 2), 1, 1),
    )


@SCHEMES.register("ralston")
class Ralston(RungeKutta):
    r"""Ralston's method: order 2 with the least bound on the local error.

        u_{n+1} = u_n + h/4 [f(t_n, u_n) + 3 f(t_n + 2h/3, u_n + 2h/3 f(t_n, u_n))]

    Reference: Ralston, "Runge-Kutta Methods with Minimum Error Bounds", Math. Comp. 16, 1962.
    """

    tableau = ButcherTableau(a=((), (F(2, 3),)), b=(F(1, 4), F(3, 4)), order=2)


@SCHEMES.register("rk3")
class RK3(RungeKutta):
    r"""Kutta's method of order 3.

        u_{n+1} = u_n + h/6 (k_1 + 4 k_2 + k_3),  k_2 at t_n + h/2,  k_3 = f(t_n + h, u_n + h (2 k_2 - k_1))

    Reference: Kutta, "Beitrag zur näherungsweisen Integration totaler Differentialgleichungen",
    Z. Math. Phys. 46, 1901.
    """

    tableau = ButcherTableau(a=((), (F(1, 2),), (-1, 2)), b=(F(1, 6), F(2, 3), F(1, 6)), order=3)


@SCHEMES.register("heun3")
class Heun3(RungeKutta):
    r"""Heun's method of order 3.

        u_{n+1} = u_n + h/4 (k_1 + 3 k_3),  k_2 at t_n + h/3,  k_3 = f(t_n + 2h/3, u_n + 2h/3 k_2)

    Reference: Heun, "Neue Methoden zur approximativen Integration der Differentialgleichungen",
    Z. Math. Phys. 45, 1900.
    """

    tableau = ButcherTableau(a=((), (F(1, 3),), (0, F(2, 3))), b=(F(1, 4), 0, F(3, 4)), order=3)


@SCHEMES.register("ssprk3")
class SSPRK3(RungeKutta):
    r"""Strong-stability-preserving method of order 3: each stage a convex combination of Euler steps.

        u_{n+1} = u_n + h/6 (k_1 + k_2 + 4 k_3),  k_2 at t_n + h,  k_3 = f(t_n + h/2, u_n + h/4 (k_1 + k_2))

    Reference: Shu, Osher, "Efficient Implementation of Essentially Non-oscillatory Shock-Capturing Schemes",
    J. Comput. Phys. 77, 1988.
    """

    tableau = ButcherTableau(a=((), (1,), (F(1, 4), F(1, 4))), b=(F(1, 6), F(1, 6), F(2, 3)), order=3)


@SCHEMES.register("rk4")
class RK4(RungeKutta):
    r"""The classic method of order 4.

        u_{n+1} = u_n + h/6 (k_1 + 2 k_2 + 2 k_3 + k_4)

    Reference: Kutta, "Beitrag zur näherungsweisen Integration totaler Differentialgleichungen",
    Z. Math. Phys. 46, 1901.
    """

    tableau = ButcherTableau(
        a=((), (F(1, 2),), (0, F(1, 2)), (0, 0, 1)), b=(F(1, 6), F(1, 3), F(1, 3), F(1, 6)), order=4
    )


@SCHEMES.register("rk38")
class RK38(RungeKutta):
    r"""The 3/8 rule of order 4 (what torchdiffeq calls ``rk4``).

        u_{n+1} = u_n + h/8 (k_1 + 3 k_2 + 3 k_3 + k_4)

    Reference: Kutta, "Beitrag zur näherungsweisen Integration totaler Differentialgleichungen",
    Z. Math. Phys. 46, 1901.
    """

    tableau = ButcherTableau(
        a=((), (F(1, 3),), (F(-1, 3), 1), (1, -1, 1)), b=(F(1, 8), F(3, 8), F(3, 8), F(1, 8)), order=4
    )


@SCHEMES.register("bosh3")
class Bosh3(RungeKutta):
    r"""Bogacki-Shampine pair 3(2); the fourth stage serves the error estimate only.

        u_{n+1} = u_n + h/9 (2 k_1 + 3 k_2 + 4 k_3)

    Reference: Bogacki, Shampine, "A 3(2) Pair of Runge-Kutta Formulas", Appl. Math. Lett. 2, 1989.
    """

    tableau = ButcherTableau(
        a=((), (F(1, 2),), (0, F(3, 4)), (F(2, 9), F(1, 3), F(4, 9))),
        b=(F(2, 9), F(1, 3), F(4, 9), 0),
        order=3,
        embedded=(F(7, 24), F(1, 4), F(1, 3), F(1, 8)),
        embedded_order=2,
    )


@SCHEMES.register("dopri5")
class Dopri5(RungeKutta):
    r"""Dormand-Prince pair 5(4); the seventh stage serves the error estimate only.

        u_{n+1} = u_n + h (35/384 k_1 + 500/1113 k_3 + 125/192 k_4 - 2187/6784 k_5 + 11/84 k_6)

    Reference: Dormand, Prince, "A Family of Embedded Runge-Kutta Formulae", J. Comput. Appl. Math. 6, 1980. The
    continuous extension of order 4: Shampine, "Some Practical Runge-Kutta Formulas", Math. Comp. 46, 1986; Hairer,
    Nørsett, Wanner, "Solving Ordinary Differential Equations I", 2nd ed., Springer 1993, section II.6.
    """

    tableau = ButcherTableau(
        a=(
            (),
            (F(1, 5),),
            (F(3, 40), F(9, 40)),
            (F(44, 45), F(-56, 15), F(32, 9)),
            (F(19372, 6561), F(-25360, 2187), F(64448, 6561), F(-212, 729)),
            (F(9017, 3168), F(-355, 33), F(46732, 5247), F(49, 176), F(-5103, 18656)),
            (F(35, 384), 0, F(500, 1113), F(125, 192), F(-2187, 6784), F(11, 84)),
        ),
        b=(F(35, 384), 0, F(500, 1113), F(125, 192), F(-2187, 6784), F(11, 84), 0),
        order=5,
        embedded=(F(5179, 57600), 0, F(7571, 16695), F(393, 640), F(-92097, 339200), F(187, 2100), F(1, 40)),
        embedded_order=4,
        c=(0, F(1, 5), F(3, 10), F(4, 5), F(8, 9), 1, 1),
        dense=(
            (1, F(-8048581381, 2820520608), F(8663915743, 2820520608), F(-12715105075, 11282082432)),
            (0,),
            (0, F(131558114200, 32700410799), F(-68118460800, 10900136933), F(87487479700, 32700410799)),
            (0, F(-1754552775, 470086768), F(14199869525, 1410260304), F(-10690763975, 1880347072)),
            (0, F(127303824393, 49829197408), F(-318862633887, 49829197408), F(701980252875, 199316789632)),
            (0, F(-282668133, 205662961), F(2019193451, 616988883), F(-1453857185, 822651844)),
            (0, F(40617522, 29380423), F(-110615467, 29380423), F(69997945, 29380423)),
        ),
        dense_order=4,
    )


@SCHEMES.register("tsit5")
class Tsit5(RungeKutta):
    r"""Tsitouras pair 5(4); the seventh stage serves the error estimate only.

        u_{n+1} = u_n + h sum_{i=1}^{6} b_i k_i

    Reference: Tsitouras, "Runge-Kutta Pairs of Order 5(4) Satisfying Only the First Column Simplifying Assumption",
    Comput. Math. Appl. 62, 2011.
    """

    _b = (
        0.09646076681806523,
        0.01,
        0.4798896504144996,
        1.379008574103742,
        -3.290069515436081,
        2.324710524099774,
    )
    _error = (
        -0.00178001105222577714, -0.0008164344596567469, 0.007880878010261995,
        -0.1447110071732629, 0.5823571654525552, -0.45808210592918697, 1 / 66,
    )  # fmt: skip
    tableau = ButcherTableau(
        a=(
            (),
            (0.161,),
            (-0.008480655492356989, 0.335480655492357),
            (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
            (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
            (
                5.86145544294642,
                -12.92096931784711,
                8.159367898576159,
                -0.071584973281401,
                -0.028269050394068383,
            ),
            _b,
        ),
        b=(*_b, 0.0),
        order=5,
        embedded=tuple(b + e for b, e in zip((*_b, 0.0), _error, strict=True)),
        embedded_order=4,
        c=(0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
        dense=(
            (1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
            (0.0, 0.13169999999999998, -0.2234, 0.1017),
            (0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651253),
            (0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902),
            (0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
            (0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661),
            (0.0, 1.5, -4.0, 2.5),
        ),
        dense_order=4,
    )
