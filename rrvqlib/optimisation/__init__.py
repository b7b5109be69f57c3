"""A run's settings and images -> trained weights, by steps or by the clock.

`whole_run.train` is the whole; `step.Step` is one step, a function of tensors on the device.
"""
