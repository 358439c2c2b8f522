import pathlib,pytest,jax
from tests.parity import checks_vit, fixture
@pytest.mark.parametrize("p",sorted(pathlib.Path('/tmp/var').glob('a[1234]_*.npz')),ids=lambda p:p.stem)
def test(p):
    with jax.default_matmul_precision("highest"), jax.numpy_rank_promotion("raise"):
        checks_vit.CHECKS[p.name[:2]](fixture.load(p))
