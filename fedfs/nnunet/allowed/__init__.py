"""Names that a plan or a charter may give, and the classes behind them."""
