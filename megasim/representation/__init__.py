"""How bytes stand for values: codes and scales → values; factors → changes of weights."""
