//! Which step goes into which row, and in what order a row is, so that few lines cross.

/// A node, or a place where a line passes through a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vertex {
    Node(usize),
    /// A line out of this node. All its lines share one until they part.
    Rail(usize),
}

/// Rows of vertices, and the lines between neighbouring rows.
#[derive(Debug, Default)]
pub(super) struct Layers {
    pub(super) vertices: Vec<Vertex>,
    /// The row of each vertex.
    pub(super) row: Vec<usize>,
    /// The vertices of each row, from left to right.
    pub(super) rows: Vec<Vec<usize>>,
    /// Each from a row to the next.
    pub(super) segments: Vec<(usize, usize)>,
    /// By vertex, those that segments lead to, and those that they come from.
    pub(super) below: Vec<Vec<usize>>,
    pub(super) above: Vec<Vec<usize>>,
}

/// How often the rows are put in order, at the most: later rounds gain little.
const ROUNDS: usize = 24;
/// Above so many lines, one round takes long, and nobody could follow the lines anyway.
const MANY_SEGMENTS: usize = 20_000;

/// How many edges the longest way to each node has. There must be no cycle.
pub(super) fn depths(nodes: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut next = vec![Vec::new(); nodes];
    let mut open = vec![0_usize; nodes];
    for &(from, to) in edges {
        next[from].push(to);
        open[to] += 1;
    }
    let mut depth = vec![0; nodes];
    let mut ready: Vec<usize> = (0..nodes).filter(|&node| open[node] == 0).collect();
    while let Some(node) = ready.pop() {
        for &to in &next[node] {
            depth[to] = depth[to].max(depth[node] + 1);
            open[to] -= 1;
            if open[to] == 0 {
                ready.push(to);
            }
        }
    }
    depth
}

impl Layers {
    /// Arranges so many nodes.
    pub(super) fn new(nodes: usize, edges: &[(usize, usize)]) -> Layers {
        let depth = depths(nodes, edges);
        let mut layers =
            Layers { rows: vec![Vec::new(); depth.iter().max().map_or(0, |deepest| deepest + 1)], ..Layers::default() };
        for (node, row) in depth.iter().enumerate() {
            layers.add(Vertex::Node(node), *row);
        }
        let mut to = vec![Vec::new(); nodes];
        edges.iter().for_each(|&(from, into)| to[from].push(into));
        for (from, mut targets) in to.into_iter().enumerate() {
            targets.sort_by_key(|&into| (depth[into], into));
            let mut at = from;
            for into in targets {
                while layers.row[at] + 1 < depth[into] {
                    let rail = layers.add(Vertex::Rail(from), layers.row[at] + 1);
                    layers.link(at, rail);
                    at = rail;
                }
                layers.link(at, into);
            }
        }
        layers.untangle();
        layers
    }

    fn add(&mut self, vertex: Vertex, row: usize) -> usize {
        let at = self.vertices.len();
        self.vertices.push(vertex);
        self.row.push(row);
        self.rows[row].push(at);
        self.below.push(Vec::new());
        self.above.push(Vec::new());
        at
    }

    fn link(&mut self, from: usize, to: usize) {
        self.segments.push((from, to));
        self.below[from].push(to);
        self.above[to].push(from);
    }

    /// Barycentres, down and up in turn; the best order stays.
    fn untangle(&mut self) {
        let rounds = if self.segments.len() > MANY_SEGMENTS { 2 } else { ROUNDS };
        let mut best = self.rows.clone();
        let mut fewest = self.crossings();
        let mut place = vec![0.0; self.vertices.len()];
        for round in 0..rounds {
            if fewest == 0 {
                break;
            }
            let down = round % 2 == 0;
            let order: Vec<usize> =
                if down { (1..self.rows.len()).collect() } else { (0..self.rows.len() - 1).rev().collect() };
            for row in order {
                let near = if down { row - 1 } else { row + 1 };
                self.order(row, near, &mut place);
            }
            let crossings = self.crossings();
            if crossings < fewest {
                (fewest, best) = (crossings, self.rows.clone());
            }
        }
        self.rows = best;
    }

    /// Puts a row in the order of what its vertices are linked to in a row beside it. Without a link a vertex stays where it is.
    fn order(&mut self, row: usize, near: usize, place: &mut [f64]) {
        for (at, vertex) in self.rows[near].iter().enumerate() {
            place[*vertex] = at as f64;
        }
        let stretch = self.rows[near].len() as f64 / self.rows[row].len() as f64;
        let mut keyed: Vec<(f64, usize)> = Vec::with_capacity(self.rows[row].len());
        for (at, &vertex) in self.rows[row].iter().enumerate() {
            let linked = if near < row { &self.above[vertex] } else { &self.below[vertex] };
            let mean = linked.iter().map(|it| place[*it]).sum::<f64>() / linked.len() as f64;
            keyed.push((if linked.is_empty() { at as f64 * stretch } else { mean }, vertex));
        }
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.rows[row] = keyed.into_iter().map(|(_, vertex)| vertex).collect();
    }

    /// How many pairs of lines cross.
    fn crossings(&self) -> u64 {
        let mut place = vec![0; self.vertices.len()];
        for row in &self.rows {
            row.iter().enumerate().for_each(|(at, vertex)| place[*vertex] = at);
        }
        let mut crossings = 0;
        for (row, upper) in self.rows.iter().enumerate() {
            let width = self.rows.get(row + 1).map_or(0, Vec::len);
            // A Fenwick tree of how many lines ended at or left of each place so far.
            let mut ended = vec![0_u64; width + 1];
            let mut lines = 0;
            for vertex in upper {
                let mut ends: Vec<usize> = self.below[*vertex].iter().map(|to| place[*to]).collect();
                ends.sort_unstable();
                for end in &ends {
                    let mut at = end + 1;
                    let mut left = 0;
                    while at > 0 {
                        left += ended[at];
                        at &= at - 1;
                    }
                    crossings += lines - left;
                }
                for end in ends {
                    let mut at = end + 1;
                    while at <= width {
                        ended[at] += 1;
                        at += at & at.wrapping_neg();
                    }
                    lines += 1;
                }
            }
        }
        crossings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_across_rows_has_a_place_in_each() {
        let layers = Layers::new(4, &[(0, 1), (1, 2), (0, 2), (2, 3), (0, 3)]);
        assert_eq!(layers.row[..4], [0, 1, 2, 3]);
        let rails: Vec<usize> =
            (0..layers.vertices.len()).filter(|&it| layers.vertices[it] == Vertex::Rail(0)).collect();
        assert_eq!(rails.iter().map(|it| layers.row[*it]).collect::<Vec<_>>(), [1, 2], "both lines of 0 share them");
        assert!(layers.segments.iter().all(|(from, to)| layers.row[*from] + 1 == layers.row[*to]));
    }

    #[test]
    fn lines_that_need_not_cross_do_not() {
        // 0, 1, 2 each lead to the one mirrored: 5, 4, 3.
        let layers = Layers::new(6, &[(0, 5), (1, 4), (2, 3)]);
        assert_eq!(layers.crossings(), 0);
        let tangled = Layers::new(4, &[(0, 2), (0, 3), (1, 2), (1, 3)]);
        assert_eq!(tangled.crossings(), 1, "these must");
    }
}
