//! Where in its row each vertex is: in the middle of what it is linked to, as far as its neighbours allow.

use super::layers::{Layers, Vertex};

/// How far a vertex reaches to both sides of its line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    pub(super) left: f64,
    pub(super) right: f64,
}

/// How often each row follows its neighbours: enough for a shift at one end to reach the other.
const ROUNDS: usize = 40;
/// As in [`Layers`]: a picture that nobody could follow is not worth long work.
const MANY_SEGMENTS: usize = 20_000;
/// How much straighter a line wants to be between two rails than at a node.
const RAIL: f64 = 6.0;

/// The line of each vertex, from left to right; neighbours are at least `gap` apart.
pub(super) fn places(layers: &Layers, reach: impl Fn(Vertex) -> Reach, gap: f64) -> Vec<f64> {
    let reach: Vec<Reach> = layers.vertices.iter().map(|vertex| reach(*vertex)).collect();
    let mut place = vec![0.0; layers.vertices.len()];
    for row in &layers.rows {
        fit(row, &reach, gap, &vec![(0.0, 1.0); row.len()], &mut place);
    }
    let rounds = if layers.segments.len() > MANY_SEGMENTS { 4 } else { ROUNDS };
    let rows = layers.rows.len();
    for round in 0..rounds {
        // In the end each heeds both sides.
        let both = round + 2 >= rounds;
        let order: Vec<usize> = if round % 2 == 0 { (0..rows).collect() } else { (0..rows).rev().collect() };
        for row in order {
            let row = &layers.rows[row];
            let wish = |vertex: &usize| wish(layers, *vertex, (both || round % 2 == 0, both || round % 2 == 1), &place);
            let wishes: Vec<(f64, f64)> = row.iter().map(wish).collect();
            fit(row, &reach, gap, &wishes, &mut place);
        }
    }
    place
}

/// Where a vertex wants to be for those above, those below it, and how much.
fn wish(layers: &Layers, vertex: usize, (above, below): (bool, bool), place: &[f64]) -> (f64, f64) {
    let above = above.then_some(&layers.above[vertex]);
    let below = below.then_some(&layers.below[vertex]);
    let (mut sum, mut weights) = (0.0, 0.0);
    for &other in above.into_iter().chain(below).flatten() {
        let rails = matches!((layers.vertices[vertex], layers.vertices[other]), (Vertex::Rail(_), Vertex::Rail(_)));
        let weight = if rails { RAIL } else { 1.0 };
        sum += place[other] * weight;
        weights += weight;
    }
    if weights > 0.0 { (sum / weights, weights) } else { (place[vertex], 0.1) }
}

/// Gives each vertex of a row its wish, or what in sum is nearest to all wishes without changing the order: pools of vertices that
/// touch each other are as a whole where their members wish to be on average.
fn fit(row: &[usize], reach: &[Reach], gap: f64, wishes: &[(f64, f64)], place: &mut [f64]) {
    struct Pool {
        /// Of the first member.
        at: f64,
        weight: f64,
        members: usize,
    }
    let mut offsets = Vec::with_capacity(row.len());
    let mut offset = 0.0;
    let mut pools: Vec<Pool> = Vec::with_capacity(row.len());
    for (at, &vertex) in row.iter().enumerate() {
        if let Some(before) = at.checked_sub(1) {
            offset += reach[row[before]].right + gap + reach[vertex].left;
        }
        offsets.push(offset);
        let (wished, weight) = wishes[at];
        let mut pool = Pool { at: wished - offset, weight, members: 1 };
        while let Some(before) = pools.pop_if(|before| before.at > pool.at) {
            let weight = before.weight + pool.weight;
            let at = (before.at * before.weight + pool.at * pool.weight) / weight;
            pool = Pool { at, weight, members: before.members + pool.members };
        }
        pools.push(pool);
    }
    let members = pools.iter().flat_map(|pool| std::iter::repeat_n(pool.at, pool.members));
    for ((vertex, offset), at) in row.iter().zip(offsets).zip(members) {
        place[*vertex] = at + offset;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_keep_their_distance_and_a_chain_is_straight() {
        let layers = Layers::new(6, &[(0, 1), (1, 2), (2, 3), (0, 4), (0, 5), (4, 3)]);
        let reach = |vertex| match vertex {
            Vertex::Node(_) => Reach { left: 50.0, right: 120.0 },
            Vertex::Rail(_) => Reach { left: 5.0, right: 20.0 },
        };
        let place = places(&layers, reach, 10.0);
        for row in &layers.rows {
            for pair in row.windows(2) {
                let room = reach(layers.vertices[pair[0]]).right + 10.0 + reach(layers.vertices[pair[1]]).left;
                assert!(place[pair[1]] - place[pair[0]] >= room - 1e-6, "{place:?}");
            }
        }
        let chain = Layers::new(3, &[(0, 1), (1, 2)]);
        assert_eq!(places(&chain, reach, 10.0), [0.0, 0.0, 0.0]);
    }
}
