"""`python -m pipelines.replay`: a CSV file into a Kafka topic, fast or at the pace of a live source."""
