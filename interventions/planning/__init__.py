"""Plans work for a device that this machine does not have: programs, bytes, operations, time."""

from interventions.planning.devices import (
    PlannedDevice as PlannedDevice,
    find_device as find_device,
)
from interventions.planning.language import plan_prefill as plan_prefill, plan_step as plan_step
from interventions.planning.plans import (
    plan_attribution as plan_attribution,
    plan_encode as plan_encode,
    plan_generate as plan_generate,
    plan_probe as plan_probe,
)
from interventions.planning.report import Report as Report
from interventions.planning.sweeps import plan_patch as plan_patch
