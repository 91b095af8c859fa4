import runpy

import pytest


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
def test_predicts_prices_beside_the_true_ones(examples, tmp_path, monkeypatch):
    """Its `main` gives a table with a row for each new house, whose prices it predicts to a third of their spread."""
    monkeypatch.chdir(tmp_path)
    table = runpy.run_path(str(examples / "own_table.py"))["main"](epochs=8)
    assert table.columns == ["row", "price", "price_true"]
    error = table["price"] - table["price_true"]
    assert len(table) == 20
    assert error.std() < 0.33 * table["price_true"].std()
