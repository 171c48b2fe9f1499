"""Those who are told what the server takes and decides: metrics, log, history, live page. They touch nothing."""
