"""What a program's own tests need.

    from branchwork.testing import Scripted

    backend = Scripted({"city": "Paris"})
    assert capital.run(country="France", backend=backend)["city"] == "Paris"

For pytest: `pytest_plugins = ["branchwork.lang.testing.fixtures"]` gives a fixture `scripted`.
"""

from branchwork.lang.testing import Answer, Asked, Recorder, Replayed, Scripted, mock_runtime

__all__ = ["Answer", "Asked", "Recorder", "Replayed", "Scripted", "mock_runtime"]
