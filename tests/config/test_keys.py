import pytest
from detectron2.config import CfgNode

from hiervl.config.keys import get_value, is_below, leaves, nodes, set_value


def test_dotted_keys_of_configs_and_of_plain_values():
    for settings in ({"A": {"B": 1, "C": {}}, "D": 2}, CfgNode({"A": {"B": 1, "C": {}}, "D": 2})):
        assert [key for key, _ in nodes(settings)] == ["A", "A.B", "A.C", "D"]
        assert leaves(settings) == {"A.B": 1, "D": 2}
        set_value(settings, "A.B", 3)
        set_value(settings, "D", 4)
        assert (get_value(settings, "A.B"), get_value(settings, "D")) == (3, 4)
        assert get_value(settings, "A.B.X", None) is None and get_value(settings, "X", 5) == 5
        with pytest.raises(KeyError, match="A.X"):
            get_value(settings, "A.X")
    assert leaves("a text") == {}


def test_sections_hold_whole_names_only():
    assert is_below("A.B", ["A"]) and is_below("A", ["A"]) and not is_below("AB", ["A"])
