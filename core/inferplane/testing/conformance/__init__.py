"""What every device plugin must hold: levels L0 to L7, run by `pytest --inferplane-device NAME`.

Or subclass the classes of the modules here in a plugin's own test file and give the fixture
`inferplane_device`. docs/testing.md names the levels and their tolerances.
"""
