"""Makes `twistd tokenlb` known.

Strings only: twistd loads this module whenever it lists its plugins, before it has chosen a reactor,
and importing klein or txredisapi would choose one.
"""

from twisted.application.service import ServiceMaker

tokenlb = ServiceMaker(
    "tokenlb",
    "twisted_lb.tap",
    "A load balancer and API gateway with exact token buckets.",
    "tokenlb",
)
