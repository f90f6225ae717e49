from runner.growth import STEPS, Growth


def feed(growth, rate):
    """Full decode steps at ``rate(size)`` tokens/s until the size settles."""
    for _ in range(40 * STEPS):
        growth.saw(growth.size, growth.size / rate(growth.size))
    return growth


def test_a_batch_grows_while_tokens_per_second_do():
    growth = feed(Growth(16, 1024), lambda size: min(size, 120))
    assert growth.found
    assert growth.size == 128


def test_a_batch_that_is_best_as_it_is_stays():
    assert feed(Growth(16, 1024), lambda size: 100).size == 16


def test_growth_ends_at_its_bound():
    assert feed(Growth(16, 100), lambda size: size).size == 64


def test_steps_of_a_batch_that_is_not_full_say_nothing():
    growth = Growth(16, 1024)
    for _ in range(100):
        growth.saw(8, 0.1)
    assert growth.size == 16 and not growth.rates
