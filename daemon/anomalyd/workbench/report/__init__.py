"""What a backtest is turned into: figures and pages."""
