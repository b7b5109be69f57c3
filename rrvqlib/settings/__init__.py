"""What a model and a run are: frozen dataclasses of plain values, checked, without torch."""

from rrvqlib.lazy import offer

__getattr__, __dir__ = offer(
    __name__,
    fields="SettingError Settings from_json",
    flat="changed flattened idle_names",
    latents="BinarySettings GaussianSettings NearestSettings RelaxedSettings StochasticSettings",
    likelihoods="EdgeLogisticSettings LogisticSettings MixtureSettings PixelLogisticSettings",
    model="ModelSettings parse_sides",
    optimisation="OptimisationSettings ScheduleSettings",
    run="DataSettings EvaluationSettings MachineSettings RunSettings",
)
