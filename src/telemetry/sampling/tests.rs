//! Sample rates and samplers.

use super::*;

#[test]
fn a_share_is_a_percentage_or_a_rate() {
    assert_eq!("1%".parse(), Ok(SampleRate::PerMillion(10_000)));
    assert_eq!("0.01 %".parse(), Ok(SampleRate::PerMillion(100)));
    assert_eq!("10/s".parse(), Ok(SampleRate::PerSecond(10)));
    for text in ["", "1", "%", "101%", "-1%", "NaN%", "/s", "-1/s", "1/m", "all"] {
        assert_eq!(text.parse::<SampleRate>(), Err(InvalidSampleRate), "{text}");
    }
}

#[test]
fn a_share_of_events_is_sampled_evenly() {
    for percent in [0, 1, 10, 33, 100] {
        let sampler = Sampler::new(SampleRate::PerMillion(percent * 10_000));
        for _ in 0..3 {
            let taken = (0..100).filter(|_| sampler.takes()).count();
            assert_eq!(taken, percent as usize);
        }
    }
}

#[test]
fn a_rate_limits_the_events_of_a_second() {
    let sampler = Sampler::new(SampleRate::PerSecond(3));
    let taken = (0..10_000).filter(|_| sampler.takes()).count();
    let most = 3 * (1 + usize::try_from(sampler.began.elapsed().as_secs()).unwrap());
    assert!((3..=most).contains(&taken), "{taken}");
}
