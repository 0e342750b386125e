"""Names that the recorder, the launcher and the exporter share in MLflow."""

EXPERIMENT = "icestream"
MODELS_EXPERIMENT = "icemix-models"  # exports and challenges
# Without this tag MLflow's page guesses "GenAI" and hides the charts behind evaluations.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
PREDICTIONS = "predictions"  # artifact folder of a run: its results in Parquet parts
