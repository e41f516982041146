use super::*;

/// A file with contexts on GPU 0, one per process.
fn file(contexts: usize) -> Box<Layout> {
    // SAFETY: Layout is plain integers, for which all zeroes is a value.
    let mut file: Box<Layout> = unsafe { Box::<Layout>::new_zeroed().assume_init() };
    file.header.gpus = 1;
    (0..contexts).for_each(|index| begin_context(&mut file, index, index, 0));
    file
}

fn kernel(file: &mut Layout, context: usize, length: u64, now: u64) {
    queue(file, context, length, None, now).unwrap();
}

#[test]
fn kernels_of_one_context_run_one_after_another() {
    let mut f = file(1);
    kernel(&mut f, 0, 1_000, 10_000);
    kernel(&mut f, 0, 500, 10_000);
    assert_eq!(idle(&mut f, 0, 10_000), Err(11_500));
    assert_eq!(idle(&mut f, 0, 11_500), Ok(()));
    assert_eq!(busy(&f, 0, 11_500), 1_500);
}

#[test]
fn contexts_take_turns_kernel_by_kernel() {
    let mut f = file(3);
    (0..3).for_each(|_| kernel(&mut f, 0, 100, 0));
    (0..2).for_each(|_| kernel(&mut f, 2, 100, 0));
    kernel(&mut f, 1, 100, 0);
    // 0 began first; then 1, 2, 0, 2, 0.
    for (now, begun) in
        [(0, [1, 0, 0]), (100, [1, 1, 0]), (200, [1, 1, 1]), (300, [2, 1, 1]), (400, [2, 1, 2])]
    {
        advance(&mut f, 0, now);
        assert_eq!([0, 1, 2].map(|i| f.contexts[i].begun), begun, "at {now}");
    }
    assert_eq!(idle(&mut f, 0, 600), Ok(()));
    assert_eq!([0, 1, 2].map(|i| busy_of(&f, 0, i, 600)), [300, 100, 200]);
}

#[test]
fn a_late_look_gives_the_same_times_as_a_look_at_every_moment() {
    let play = |looks: &[u64]| {
        let mut f = file(2);
        for n in 0..20 {
            kernel(&mut f, 0, 70, n);
            kernel(&mut f, 1, 30 + n, n);
            queue(&mut f, 1, 0, Some(n as u32), n).unwrap();
        }
        looks.iter().for_each(|now| advance(&mut f, 0, *now));
        advance(&mut f, 0, 10_000);
        (f.stamps[1][..20].iter().map(|s| s.time).collect::<Vec<_>>(), f.gpus[0].free_at)
    };
    assert_eq!(play(&[]), play(&(20..5_000).collect::<Vec<_>>()));
}

#[test]
fn a_gpu_that_waited_is_not_busy() {
    let mut f = file(1);
    kernel(&mut f, 0, 100, 0);
    kernel(&mut f, 0, 100, 1_000);
    assert_eq!(idle(&mut f, 0, 1_100), Ok(()));
    assert_eq!(busy(&f, 0, 1_100), 200);
}

#[test]
fn a_kernel_under_way_counts_as_far_as_it_got() {
    let mut f = file(1);
    kernel(&mut f, 0, 1_000, 0);
    assert_eq!((busy(&f, 0, 300), busy_of(&f, 0, 0, 300)), (300, 300));
}

#[test]
fn an_event_is_stamped_with_the_end_of_what_is_before_it() {
    let mut f = file(1);
    queue(&mut f, 0, 0, Some(0), 10).unwrap();
    kernel(&mut f, 0, 5_000, 20);
    let number = queue(&mut f, 0, 0, Some(1), 30).unwrap();
    assert_eq!(stamped(&mut f, 0, 0, 1, 30), Ok(10));
    assert_eq!(stamped(&mut f, 0, 1, number + 1, 30), Err(5_020));
    assert_eq!(stamped(&mut f, 0, 1, number + 1, 9_999), Ok(5_020));
}

#[test]
fn a_pair_of_events_holds_the_neighbours_kernel_in_between() {
    let mut f = file(2);
    kernel(&mut f, 0, 100, 0);
    for stamp in [0, 1] {
        queue(&mut f, 1, 0, Some(stamp), 10).unwrap();
        kernel(&mut f, 1, 50, 10);
    }
    queue(&mut f, 1, 0, Some(2), 10).unwrap();
    kernel(&mut f, 0, 100, 10);
    advance(&mut f, 0, 1_000);
    // 0 until 100; event, kernel of 1 until 150, event; 0 until 250; kernel of 1 until 300, event.
    assert_eq!([0, 1, 2].map(|s| f.stamps[1][s].time), [100, 150, 300]);
}

#[test]
fn an_event_of_an_idle_context_waits_for_the_kernel_under_way() {
    let mut f = file(2);
    kernel(&mut f, 0, 100, 0);
    kernel(&mut f, 0, 100, 0);
    queue(&mut f, 1, 0, Some(0), 10).unwrap();
    assert_eq!(stamped(&mut f, 1, 0, 1, 150), Ok(100));
}

#[test]
fn a_full_queue_says_when_to_try_again() {
    let mut f = file(1);
    (0..=QUEUE).for_each(|_| kernel(&mut f, 0, 10_000, 0));
    assert_eq!(queue(&mut f, 0, 10_000, None, 0), Err(10_000));
    assert!(queue(&mut f, 0, 10_000, None, 10_000).is_ok());
}

#[test]
fn a_context_that_ends_takes_its_queue_and_its_kernel_under_way_with_it() {
    let mut f = file(2);
    (0..5).for_each(|_| kernel(&mut f, 0, 1_000, 0));
    kernel(&mut f, 1, 100, 0);
    end_context(&mut f, 0, 300);
    assert_eq!((busy(&f, 0, 300), f.slots[0].busy[0]), (300, 300));
    assert_eq!(idle(&mut f, 1, 400), Ok(()));
    assert_eq!(busy(&f, 0, 400), 400);
}

#[test]
fn events_of_a_context_that_was_here_before_are_not_taken_for_new_ones() {
    let mut f = file(1);
    queue(&mut f, 0, 0, Some(3), 10).unwrap();
    end_context(&mut f, 0, 20);
    begin_context(&mut f, 0, 0, 0);
    kernel(&mut f, 0, 5_000, 30);
    let number = queue(&mut f, 0, 0, Some(3), 30).unwrap();
    assert_eq!(stamped(&mut f, 0, 3, number + 1, 40), Err(5_030));
}

#[test]
fn utilisation_is_kept_for_the_gpu_and_for_each_context() {
    let second = 6 * crate::layout::SAMPLE;
    let mut f = file(2);
    kernel(&mut f, 0, second / 2, 10 * second);
    kernel(&mut f, 1, second / 4, 10 * second);
    advance(&mut f, 0, 11 * second);
    assert_eq!(f.gpus[0].samples.percent(11 * second), 75);
    assert_eq!([0, 1].map(|i| f.contexts[i].samples.percent(11 * second)), [50, 25]);
}
