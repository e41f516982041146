use super::*;

const SLICE: u64 = 2_000;
const SWITCH: u64 = 100;

/// A file with contexts on GPU 0, one per process; slices of 2,000, a switch costs 100.
fn file(contexts: usize) -> Box<Layout> {
    // SAFETY: Layout is plain integers, for which all zeroes is a value.
    let mut file: Box<Layout> = unsafe { Box::<Layout>::new_zeroed().assume_init() };
    file.header.gpus = 1;
    let mut timing = crate::profile::Description::real_time();
    (timing.slice, timing.switch) = (SLICE, SWITCH);
    file.header.timing = timing;
    (0..contexts).for_each(|index| begin_context(&mut file, index, index, 0));
    file
}

fn kernel(file: &mut Layout, context: usize, length: u64, now: u64) {
    queue(file, context, Item { length, stamp: 0, kind: KERNEL }, now).unwrap();
}

fn event(file: &mut Layout, context: usize, stamp: u32, now: u64) -> u64 {
    queue(file, context, Item { length: 0, stamp: stamp + 1, kind: KERNEL }, now).unwrap()
}

fn copy(file: &mut Layout, context: usize, length: u64, now: u64) {
    queue(file, context, Item { length, stamp: 0, kind: COPY }, now).unwrap();
}

fn busy(file: &mut Layout, now: u64) -> u64 {
    advance(file, 0, now);
    file.gpus[0].scheduler.busy
}

fn busy_of(file: &Layout, process: usize) -> u64 {
    file.slots[process].busy[0]
}

#[test]
fn kernels_of_one_context_run_one_after_another() {
    let mut f = file(1);
    kernel(&mut f, 0, 1_000, 10_000);
    kernel(&mut f, 0, 500, 10_000);
    assert_eq!(idle(&mut f, 0, 10_000), Err(11_500));
    assert_eq!(idle(&mut f, 0, 11_500), Ok(()));
    assert_eq!(busy(&mut f, 11_500), 1_500);
}

#[test]
fn contexts_take_turns_slice_by_slice_and_pay_for_each_change() {
    let mut f = file(2);
    kernel(&mut f, 0, 5_000, 0);
    kernel(&mut f, 1, 3_000, 0);
    // 0: 0..2000, 1: 2100..4100, 0: 4200..6200, 1: 6300..7300, 0: 7400..8400.
    for (now, of_0, of_1) in
        [(2_000, 2_000, 0), (4_100, 2_000, 2_000), (6_200, 4_000, 2_000), (7_300, 4_000, 3_000)]
    {
        advance(&mut f, 0, now);
        assert_eq!((busy_of(&f, 0), busy_of(&f, 1)), (of_0, of_1), "at {now}");
    }
    assert!(idle(&mut f, 0, 8_399).is_err());
    assert_eq!(idle(&mut f, 0, 8_400), Ok(()));
    assert_eq!((f.gpus[0].scheduler.busy, f.gpus[0].scheduler.switching), (8_000, 400));
}

#[test]
fn short_kernels_of_a_slice_run_without_a_change() {
    let mut f = file(2);
    (0..40).for_each(|_| kernel(&mut f, 0, 100, 0));
    (0..20).for_each(|_| kernel(&mut f, 1, 100, 0));
    advance(&mut f, 0, 4_100);
    assert_eq!((busy_of(&f, 0), busy_of(&f, 1)), (2_000, 2_000));
}

#[test]
fn a_context_without_work_gives_way_at_once() {
    let mut f = file(2);
    kernel(&mut f, 0, 300, 0);
    kernel(&mut f, 1, 300, 0);
    assert_eq!(idle(&mut f, 1, 699), Err(700));
    assert_eq!(idle(&mut f, 1, 700), Ok(()));
}

#[test]
fn or_keeps_its_slice_where_that_is_set() {
    let mut f = file(2);
    f.header.timing.gives_way = 0;
    kernel(&mut f, 0, 300, 0);
    kernel(&mut f, 1, 300, 0);
    assert!(idle(&mut f, 1, 2_399).is_err());
    assert_eq!(idle(&mut f, 1, 2_400), Ok(()));
    assert_eq!(busy(&mut f, 2_400), 600);
}

#[test]
fn kernels_that_cannot_be_stopped_run_to_their_end() {
    let mut f = file(2);
    f.header.timing.preemptible = 0;
    kernel(&mut f, 0, 5_000, 0);
    kernel(&mut f, 0, 100, 0);
    kernel(&mut f, 1, 300, 0);
    assert_eq!(idle(&mut f, 1, 5_400), Ok(()));
    assert_eq!(busy_of(&f, 0), 5_000);
}

#[test]
fn a_lone_context_never_changes_and_its_slices_follow_each_other() {
    let mut f = file(2);
    kernel(&mut f, 0, 100_000, 0);
    advance(&mut f, 0, 50_500);
    assert_eq!(f.gpus[0].scheduler.switching, 0);
    // The newcomer waits for the end of the slice under way.
    kernel(&mut f, 1, 100, 50_500);
    assert_eq!(idle(&mut f, 1, 52_200), Ok(()));
    assert_eq!(busy_of(&f, 0), 52_000);
}

#[test]
fn a_late_look_gives_the_same_times_as_a_look_at_every_moment() {
    let play = |looks: &[u64]| {
        let mut f = file(3);
        for n in 0..20 {
            kernel(&mut f, 0, 700, n);
            kernel(&mut f, 1, 300 + n, n);
            event(&mut f, 1, n as u32, n);
            copy(&mut f, 2, 150, n);
            kernel(&mut f, 2, 400, n);
            event(&mut f, 2, n as u32, n);
        }
        looks.iter().for_each(|now| advance(&mut f, 0, *now));
        advance(&mut f, 0, 100_000);
        let stamps = [1, 2].map(|c| f.stamps[c][..20].iter().map(|s| s.time).collect::<Vec<_>>());
        (stamps, f.gpus[0].scheduler)
    };
    assert_eq!(play(&[]), play(&(20..60_000).collect::<Vec<_>>()));
}

#[test]
fn a_gpu_that_waited_is_not_busy() {
    let mut f = file(1);
    kernel(&mut f, 0, 100, 0);
    kernel(&mut f, 0, 100, 1_000);
    assert_eq!(idle(&mut f, 0, 1_100), Ok(()));
    assert_eq!(busy(&mut f, 1_100), 200);
}

#[test]
fn a_kernel_under_way_counts_as_far_as_it_got() {
    let mut f = file(1);
    kernel(&mut f, 0, 1_000, 0);
    assert_eq!((busy(&mut f, 300), busy_of(&f, 0)), (300, 300));
}

#[test]
fn an_event_is_stamped_with_the_end_of_what_is_before_it() {
    let mut f = file(1);
    event(&mut f, 0, 0, 10);
    kernel(&mut f, 0, 5_000, 20);
    let number = event(&mut f, 0, 1, 30);
    assert_eq!(stamped(&mut f, 0, 0, 1, 30), Ok(10));
    assert_eq!(stamped(&mut f, 0, 1, number + 1, 30), Err(5_020));
    assert_eq!(stamped(&mut f, 0, 1, number + 1, 9_999), Ok(5_020));
}

#[test]
fn a_pair_of_events_holds_the_neighbours_slices_in_between() {
    let mut f = file(2);
    event(&mut f, 0, 0, 0);
    kernel(&mut f, 0, 3_000, 0);
    event(&mut f, 0, 1, 0);
    kernel(&mut f, 1, 9_000, 0);
    advance(&mut f, 0, 20_000);
    // 0..2000, the neighbour's 2100..4100, 4200..5200.
    assert_eq!([0, 1].map(|s| f.stamps[0][s].time), [0, 5_200]);
}

#[test]
fn an_event_of_an_idle_context_waits_for_its_turn() {
    let mut f = file(2);
    kernel(&mut f, 0, 10_000, 0);
    event(&mut f, 1, 0, 10);
    assert_eq!(stamped(&mut f, 1, 0, 1, 5_000), Ok(2_100));
}

#[test]
fn a_marker_may_take_gpu_time() {
    let mut f = file(1);
    queue(&mut f, 0, Item { length: 500, stamp: 1, kind: KERNEL }, 0).unwrap();
    assert_eq!(stamped(&mut f, 0, 0, 1, 500), Ok(500));
}

#[test]
fn a_copy_takes_its_contexts_time_and_nobody_elses() {
    let mut f = file(2);
    copy(&mut f, 0, 1_000, 0);
    kernel(&mut f, 0, 200, 0);
    kernel(&mut f, 1, 500, 0);
    assert_eq!(idle(&mut f, 1, 500), Ok(()));
    assert_eq!(idle(&mut f, 0, 500), Err(1_200));
    assert_eq!(idle(&mut f, 0, 1_300), Ok(()));
    assert_eq!(busy(&mut f, 1_300), 700);
}

#[test]
fn a_full_queue_says_when_to_try_again() {
    let mut f = file(1);
    f.header.timing.queue = 16;
    (0..16).for_each(|_| kernel(&mut f, 0, 10_000, 0));
    let more = |f: &mut Layout, now| queue(f, 0, Item { length: 10_000, stamp: 0, kind: KERNEL }, now);
    assert_eq!(more(&mut f, 0), Err(10_000));
    assert!(more(&mut f, 10_000).is_ok());
}

#[test]
fn waiting_again_and_again_ends_with_the_kernel_and_takes_few_looks() {
    let mut f = file(4);
    (0..4).for_each(|c| kernel(&mut f, c, 20_000, 0));
    let (mut now, mut looks) = (0, 0);
    while let Err(again) = idle(&mut f, 3, now) {
        assert!(again > now);
        (now, looks) = (again, looks + 1);
    }
    // Nothing was overslept: the last of four equal ones ends with the last of their 40 slices.
    assert_eq!(now, 40 * SLICE + 39 * SWITCH);
    assert!(looks < 60, "{looks}");
}

#[test]
fn a_context_that_ends_takes_its_queue_and_its_kernel_under_way_with_it() {
    let mut f = file(2);
    (0..5).for_each(|_| kernel(&mut f, 0, 1_000, 0));
    kernel(&mut f, 1, 100, 0);
    end_context(&mut f, 0, 300);
    assert_eq!((busy(&mut f, 300), busy_of(&f, 0)), (300, 300));
    assert_eq!(idle(&mut f, 1, 400), Ok(()));
    assert_eq!(busy(&mut f, 400), 400);
}

#[test]
fn events_of_a_context_that_was_here_before_are_not_taken_for_new_ones() {
    let mut f = file(1);
    event(&mut f, 0, 3, 10);
    end_context(&mut f, 0, 20);
    begin_context(&mut f, 0, 0, 0);
    kernel(&mut f, 0, 5_000, 30);
    let number = event(&mut f, 0, 3, 30);
    assert_eq!(stamped(&mut f, 0, 3, number + 1, 40), Err(5_030));
}

#[test]
fn a_step_its_writer_did_not_live_to_complete_is_completed() {
    let mut whole = file(1);
    kernel(&mut whole, 0, 500, 0);
    event(&mut whole, 0, 0, 0);
    let mut torn = file(1);
    kernel(&mut torn, 0, 500, 0);
    event(&mut torn, 0, 0, 0);
    advance(&mut torn, 0, 500);
    // As after a kill behind the mark: nothing of the last step, the event, has reached its place.
    torn.gpus[0].step.valid = 1;
    torn.contexts[0].begun = 1;
    torn.stamps[0][0] = Stamp { sequence: 0, time: 0 };
    torn.gpus[0].scheduler.busy = 0;
    for f in [&mut whole, &mut torn] {
        assert_eq!(stamped(f, 0, 0, 2, 700), Ok(500));
        assert_eq!((f.gpus[0].scheduler.busy, f.contexts[0].begun), (500, 2));
    }
}

#[test]
fn utilisation_is_kept_for_the_gpu_and_for_each_context() {
    let second = 6 * crate::layout::SAMPLE;
    let mut f = file(2);
    f.header.timing.switch = 0;
    kernel(&mut f, 0, second / 2, 10 * second);
    kernel(&mut f, 1, second / 4, 10 * second);
    advance(&mut f, 0, 11 * second);
    assert!((74..=75).contains(&samples::percent(&f.gpus[0].samples, 11 * second)));
    let of = |context: usize| samples::percent(&f.contexts[context].samples, 11 * second);
    assert_eq!((of(0), of(1)), (50, 25));
}
