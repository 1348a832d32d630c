"""Studies: a question that takes many predictions, one file a study."""
