"""Studies, figures, reports, benchmarks and the command line. Depends on ``agents`` and ``ntp_envs``."""
