//! Values of many bytes.

use std::hint::black_box;

use super::field::{Field, again_and_again};
use super::{Bench, Group, Unit};
use crate::for_each_rival;
use crate::rivals::{Client, Contents, Operation, Redis, Rival, Served, VALUE, ZmqFaithful, ZmqImproved};

/// Those that iceoryx2 has types for here.
const SIZES: [(usize, &str); 6] = [
    (8, "8 B"),
    (64, "64 B"),
    (1 << 10, "1 KiB"),
    (16 << 10, "16 KiB"),
    (128 << 10, "128 KiB"),
    (1 << 20, "1 MiB"),
];

/// A copy, for comparison.
fn add_control(field: &mut Field, size: usize) {
    field.add_other("memcpy", |_| {
        // Not at the same place of a page as the other: some processors copy between such at a fraction of their speed.
        const APART: usize = 1984;
        let (from, mut to) = (vec![7u8; size], vec![0u8; APART + size]);
        again_and_again(move || {
            to[APART..].copy_from_slice(black_box(&from));
            black_box(&mut to);
        })
    });
}

/// One that reads a value, into memory of its own.
fn add_reader<R: Rival + 'static>(field: &mut Field, size: usize) {
    field.add::<R, _>(&[Operation::Bytes], &Contents::value(size), |rival, _| {
        let mut client = R::Client::open(&rival.address());
        let mut bytes = Vec::new();
        again_and_again(move || client.get_bytes(VALUE, black_box(&mut bytes)))
    });
}

/// One that overwrites a value.
fn add_writer<R: Rival + 'static>(field: &mut Field, size: usize) {
    field.add::<R, _>(&[Operation::Bytes], &Contents::value(size), |rival, _| {
        let mut client = R::Client::open(&rival.address());
        let mut value = vec![9u8; size];
        again_and_again(move || {
            value[0] = value[0].wrapping_add(1);
            client.set_bytes(VALUE, &value);
        })
    });
}

/// Reading a value.
pub fn get(bench: &Bench) -> Group {
    let column = |(size, name): (usize, &'static str)| {
        let mut field = Field::new();
        for_each_rival!(add_reader(&mut field, size));
        add_control(&mut field, size);
        field.run(name, size as f64, bench.time(1200))
    };
    Group {
        id: "get by size",
        title: "Get, by size of the value",
        text: "Reading bytes under one key into memory of the reader's own. zproc and LMDB could also show them where they \
               lie, without the copy."
            .into(),
        unit: Unit::Time,
        columns: SIZES.map(column).into(),
    }
}

/// Reading a value from a server.
pub fn request_and_reply(bench: &Bench) -> Group {
    let column = |(size, name): (usize, &'static str)| {
        let mut field = Field::new();
        add_reader::<Served>(&mut field, size);
        add_reader::<ZmqFaithful>(&mut field, size);
        add_reader::<ZmqImproved>(&mut field, size);
        add_reader::<Redis>(&mut field, size);
        field.run(name, size as f64, bench.time(1200))
    };
    Group {
        id: "request and reply",
        title: "Request and reply, by size of the value",
        text:
            "The same where memory cannot be shared: zproc over the socket of its server (`?transport=socket`), beside \
               the designs that have servers anyway. Client and server run on one CPU, each in a process of its own."
                .into(),
        unit: Unit::Time,
        columns: SIZES.map(column).into(),
    }
}

/// Sending a value to a server.
pub fn request_with_value(bench: &Bench) -> Group {
    let column = |(size, name): (usize, &'static str)| {
        let mut field = Field::new();
        add_writer::<Served>(&mut field, size);
        add_writer::<ZmqFaithful>(&mut field, size);
        add_writer::<ZmqImproved>(&mut field, size);
        add_writer::<Redis>(&mut field, size);
        field.run(name, size as f64, bench.time(1200))
    };
    Group {
        id: "request with a value",
        title: "Request with a value, by size of the value",
        text: "Overwriting bytes under one key, likewise. The designs over ZeroMQ publish each update; nobody has \
               subscribed."
            .into(),
        unit: Unit::Time,
        columns: SIZES.map(column).into(),
    }
}

/// Overwriting a value.
pub fn set(bench: &Bench) -> Group {
    let column = |(size, name): (usize, &'static str)| {
        let mut field = Field::new();
        for_each_rival!(add_writer(&mut field, size));
        add_control(&mut field, size);
        field.run(name, size as f64, bench.time(1200))
    };
    Group {
        id: "set by size",
        title: "Set, by size of the value",
        text:
            "Overwriting bytes under one key. zproc keeps the old ones for watchers and snapshots until its history is \
               full."
                .into(),
        unit: Unit::Time,
        columns: SIZES.map(column).into(),
    }
}
