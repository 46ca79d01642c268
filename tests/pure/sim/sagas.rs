//! Definitions at random, in all the words of the language that change what is sent, waited for, undone or held.

use super::chance::Chance;

/// A definition in the making.
#[derive(Clone, Debug)]
pub(crate) struct SagaPlan {
    pub(crate) name: String,
    pub(crate) steps: Vec<StepPlan>,
    deadline: Option<u64>,
    goes_on: bool,
    gate: Gate,
    key_reuse: &'static str,
    keyless: bool,
    retention: Option<&'static str>,
    priority: Option<u64>,
    /// Changed by a reload: another revision of the same.
    pub(crate) edition: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Gate {
    Open,
    Lock,
    Refuse,
    Limit,
}

#[derive(Clone, Debug)]
pub(crate) struct StepPlan {
    name: usize,
    after: Vec<usize>,
    pub(crate) kind: Kind,
    undo: Undo,
    attempts: u64,
    undo_attempts: u64,
    timeout: u64,
    delay: bool,
    optional: bool,
    pivot: bool,
    when: Option<bool>,
    foreach: Option<(u64, u64)>,
    answers: Answers,
    /// Passes on how the step before it went, and its undo what came of that.
    looks_back: bool,
    /// Its command dies in a queue that nobody empties.
    expires: bool,
    urgency: Urgency,
}

/// How urgent a step's commands are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Urgency {
    /// As its saga.
    Silent,
    Fixed(u64),
    /// By a template.
    Computed,
}

/// How whoever does a step says what came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answers {
    /// In the header that is there for it.
    Word,
    /// As any RPC worker: with its body alone.
    Plain,
    /// In words of its own, which the step's rules know.
    Ruled,
    /// With a body that has to look as the step wants it.
    Schema,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Command,
    Probe,
    Suspend,
    /// Answered by events of the participant.
    Announced,
    Publish,
    /// For the signal `go`; with a time-out.
    Signal(bool),
    /// For an event.
    Event(bool),
    Sleep,
    Saga,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Undo {
    None,
    Command,
    /// After a failure as well.
    Always,
}

impl SagaPlan {
    pub(crate) fn draw(chance: Chance, name: String, is_child: bool) -> SagaPlan {
        let count = chance.of("steps").within(1..if is_child { 4 } else { 6 }) as usize;
        let steps = (0..count).map(|at| StepPlan::draw(chance.of(("step", at)), at, is_child)).collect();
        let often = |label: &'static str, permille| chance.of(label).permille(permille);
        let deadline = often("deadline", 300).then(|| chance.of("after").within(1..60));
        let gate = match is_child {
            true => Gate::Open,
            false => {
                chance.of("gate").weighted(&[(8, Gate::Open), (1, Gate::Lock), (1, Gate::Refuse), (1, Gate::Limit)])
            }
        };
        let key_reuse = chance.of("reuse").weighted(&[(6, "never"), (1, "after_failure"), (1, "after_end")]);
        let keyless = !is_child && often("keyless", 150);
        let retention = (!is_child && often("retention", 60)).then_some("20s");
        let mut steps: Vec<StepPlan> = steps;
        for step in &mut steps {
            // Such an event is for whoever has the key now, and a child has none.
            if step.kind == Kind::Announced && (is_child || keyless || key_reuse != "never") {
                step.kind = Kind::Command;
            }
            if matches!(step.kind, Kind::Event(_)) && (is_child || keyless) {
                step.kind = Kind::Signal(true);
            }
        }
        let goes_on = often("goes on", 250);
        let priority = often("priority", 200).then(|| chance.of("how urgent").below(10));
        SagaPlan { name, steps, deadline, goes_on, gate, key_reuse, keyless, retention, priority, edition: 1 }
    }

    /// Whether ended sagas of it are deleted while the run goes on.
    pub(crate) fn forgets(&self) -> bool {
        self.retention.is_some()
    }

    pub(crate) fn reuses_keys(&self) -> bool {
        self.key_reuse != "never"
    }

    /// Whether a step of this name is answered by events.
    pub(crate) fn announces(&self, step: &str) -> bool {
        self.steps.iter().any(|it| it.kind == Kind::Announced && step == format!("s{}", it.name))
    }

    /// How the participant of a step of this name answers.
    pub(crate) fn answers(&self, step: &str) -> Answers {
        let step = self.steps.iter().find(|it| it.is_command() && step == format!("s{}", it.name));
        step.map_or(Answers::Word, |step| step.answers)
    }

    pub(crate) fn has_a_key(&self) -> bool {
        !self.keyless && self.name != "child"
    }

    /// The steps that wait for an event, by name.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = String> {
        self.steps.iter().filter(|step| matches!(step.kind, Kind::Event(_))).map(|step| format!("s{}", step.name))
    }

    /// Whether a start can be refused for the sake of others.
    pub(crate) fn refuses(&self) -> bool {
        self.gate == Gate::Refuse
    }

    /// The definition's text.
    pub(crate) fn toml(&self) -> String {
        let policy = if self.goes_on { "continue" } else { "suspend" };
        let deadline = self.deadline.map_or(String::new(), |seconds| format!("timeout = '{seconds}s'\n"));
        let gate = match self.gate {
            Gate::Open => "",
            Gate::Lock => "lock = { key = '{{ input.lock }}' }\n",
            Gate::Refuse => "lock = { key = '{{ input.lock }}', mode = 'reject' }\n",
            Gate::Limit => "max_running = 1\n",
        };
        let retention = self.retention.map_or(String::new(), |it| format!("retention = '{it}'\n"));
        let key = match self.has_a_key() {
            true => format!("key = '{{{{ input.key }}}}'\nkey_reuse = '{}'\n", self.key_reuse),
            false => String::new(),
        };
        let priority = self.priority.map_or(String::new(), |it| format!("priority = {it}\n"));
        // A child is begun by its parent alone.
        let start = match self.name.as_str() {
            "child" => String::new(),
            name => format!("[[start]]\nexchange = 'ev'\nrouting_key = '{name}.begin'\ninput = '{{{{ body }}}}'\n"),
        };
        let steps: String = self.steps.iter().map(|step| step.toml(&self.steps, self)).collect();
        format!(
            "name = '{}'\ndescription = 'edition {}'\n{key}{deadline}{gate}{retention}{priority}events = 'step'\n\
             on_compensation_failure = '{policy}'\n[defaults]\nexchange = 'e'\n\
             retry = {{ initial = '1s', factor = 2.0, max = '5s', jitter = 0.3 }}\n{start}{steps}",
            self.name, self.edition
        )
    }

    /// With something less in it.
    pub(crate) fn smaller(&self) -> Vec<SagaPlan> {
        let mut smaller = Vec::new();
        for at in 0..self.steps.len() {
            if self.steps.len() > 1 {
                let mut saga = self.clone();
                let gone = saga.steps.remove(at);
                for step in &mut saga.steps {
                    step.after.retain(|name| *name != gone.name);
                }
                smaller.push(saga);
            }
            for plain in self.steps[at].smaller() {
                let mut saga = self.clone();
                saga.steps[at] = plain;
                smaller.push(saga);
            }
        }
        let mut with = |differs: bool, change: &dyn Fn(&mut SagaPlan)| {
            if differs {
                let mut saga = self.clone();
                change(&mut saga);
                smaller.push(saga);
            }
        };
        with(self.deadline.is_some(), &|saga| saga.deadline = None);
        with(self.goes_on, &|saga| saga.goes_on = false);
        with(self.gate != Gate::Open, &|saga| saga.gate = Gate::Open);
        with(self.retention.is_some(), &|saga| saga.retention = None);
        with(self.priority.is_some(), &|saga| saga.priority = None);
        with(self.key_reuse != "never", &|saga| saga.key_reuse = "never");
        smaller
    }
}

impl StepPlan {
    fn draw(chance: Chance, at: usize, is_child: bool) -> StepPlan {
        let often = |label: &'static str, permille| chance.of(label).permille(permille);
        let kinds = [
            (12, Kind::Command),
            (2, Kind::Probe),
            (1, Kind::Suspend),
            (2, Kind::Announced),
            (2, Kind::Publish),
            (1, Kind::Signal(often("in time", 500))),
            (1, Kind::Event(often("in time", 500))),
            (1, Kind::Sleep),
            (if is_child { 0 } else { 3 }, Kind::Saga),
        ];
        let kind = chance.of("kind").weighted(&kinds);
        StepPlan {
            name: at,
            // Mostly one after the other, sometimes side by side.
            after: (0..at)
                .filter(|earlier| chance.of(("after", *earlier)).permille(if earlier + 1 == at { 750 } else { 250 }))
                .collect(),
            kind,
            undo: chance.of("undo").weighted(&[(1, Undo::None), (7, Undo::Command), (2, Undo::Always)]),
            attempts: chance.of("attempts").within(1..4),
            undo_attempts: chance.of("undo attempts").within(1..5),
            timeout: chance.of("timeout").within(1..20),
            delay: often("delay", 100),
            optional: often("optional", 120),
            pivot: often("pivot", 80),
            when: often("when", 120).then(|| often("holds", 500)),
            foreach: often("foreach", 130)
                .then(|| (chance.of("elements").below(4), chance.of("parallel").within(1..3))),
            looks_back: often("looks back", 300),
            expires: !often("stays", 100),
            urgency: chance.of("urgency").weighted(&[
                (8, Urgency::Silent),
                (1, Urgency::Fixed(chance.of("priority").below(10))),
                (1, Urgency::Computed),
            ]),
            answers: match kind {
                // Its events are its answers.
                Kind::Announced => Answers::Word,
                _ => chance.of("answers").weighted(&[
                    (5, Answers::Word),
                    (2, Answers::Plain),
                    (2, Answers::Ruled),
                    (2, Answers::Schema),
                ]),
            },
        }
    }

    fn is_command(&self) -> bool {
        matches!(self.kind, Kind::Command | Kind::Probe | Kind::Suspend | Kind::Announced)
    }

    fn toml(&self, all: &[StepPlan], of: &SagaPlan) -> String {
        let saga = &of.name;
        let at = self.name;
        let after: Vec<String> = self.after.iter().map(|earlier| format!("'s{earlier}'")).collect();
        let kind = match self.kind {
            Kind::Command | Kind::Probe | Kind::Suspend | Kind::Announced => {
                format!("command = 's{at}.do.{}'", of.edition)
            }
            Kind::Publish => format!("publish = 's{at}.done'"),
            Kind::Signal(_) => "wait = { signal = 'go' }".to_owned(),
            Kind::Event(_) => format!("wait = {{ exchange = 'ev', routing_key = '{saga}.s{at}.happened', match = 'body.key' }}"),
            Kind::Sleep => "sleep = '2s'".to_owned(),
            Kind::Saga => "saga = 'child'\ninput.lists = '{{ input.lists }}'\ninput.yes = true\ninput.no = false\ninput.key = 'none'".to_owned(),
        };
        let mut toml = format!("[[steps]]\nname = 's{at}'\n{kind}\nafter = [{}]\n", after.join(", "));
        let mut line = |condition: bool, text: String| {
            if condition {
                toml += &(text + "\n");
            }
        };
        line(
            self.is_command(),
            format!("timeout = '{}s'\nretry.attempts = {}", self.timeout + u64::from(of.edition), self.attempts),
        );
        line(self.is_command() && !self.expires, "expires = false".into());
        let sends = self.is_command() || self.kind == Kind::Publish;
        match self.urgency {
            Urgency::Silent => {}
            Urgency::Fixed(priority) => line(sends, format!("priority = {priority}")),
            Urgency::Computed => {
                line(sends, "priority = '{{ 3 if input.yes else 4 }}'\nheaders.of = '{{ saga.id }}'".into())
            }
        }
        line(matches!(self.kind, Kind::Signal(true) | Kind::Event(true)), "timeout = '9s'".into());
        line(
            self.kind == Kind::Probe,
            format!("on_timeout = 'probe'\nprobe = {{ command = 's{at}.status', timeout = '4s', retry.attempts = 2 }}"),
        );
        line(self.kind == Kind::Suspend, "on_timeout = 'suspend'".into());
        if self.kind == Kind::Announced {
            for word in ["success", "failure"] {
                line(
                    true,
                    format!(
                        "reply.{word} = {{ exchange = 'ev', routing_key = '{saga}.s{at}.{word}', match = 'body.key' }}"
                    ),
                );
            }
        }
        let ruled = self.is_command() && self.answers == Answers::Ruled;
        line(
            ruled,
            "reply.success_when = \"body.status == 'done'\"\nreply.retry_when = \"body.status == 'busy'\"".into(),
        );
        line(self.is_command() && self.answers == Answers::Schema, "reply.schema = { required = ['id'] }".into());
        line(self.pivot, "pivot = true".into());
        // Nobody could tell whose event an event is.
        let single = !matches!(self.kind, Kind::Announced | Kind::Event(_));
        if let Some((elements, at_once)) = self.foreach.filter(|_| single) {
            line(true, format!("foreach = '{{{{ input.lists[{elements}] }}}}'\nmax_parallel = {at_once}"));
        }
        line(self.delay, "delay = '3s'".into());
        line(self.optional, "optional = true".into());
        line(self.when == Some(true), "when = 'input.yes'".into());
        line(self.when == Some(false), "when = 'input.no'".into());
        let first = self.after.first().and_then(|first| all.iter().find(|step| step.name == *first));
        if let Some(first) = first.filter(|_| self.is_command() || self.kind == Kind::Publish) {
            let listed = first.foreach.is_some() && !matches!(first.kind, Kind::Announced | Kind::Event(_));
            let replies = if listed { "replies" } else { "reply" };
            line(true, format!("body.before = '{{{{ steps.s{}.{replies} }}}}'", first.name));
            line(self.looks_back, format!("body.status = '{{{{ steps.s{}.status }}}}'", first.name));
            line(self.looks_back, format!("headers.status = '{{{{ steps.s{}.status }}}}'", first.name));
        }
        match (self.kind, self.undo) {
            (Kind::Sleep, _) => {}
            (_, Undo::None) => line(true, "compensate = false".into()),
            (kind, undo) => {
                line(
                    kind != Kind::Saga,
                    format!("compensate.command = 's{at}.undo.{}'\ncompensate.timeout = '7s'", of.edition),
                );
                let own = self.foreach.is_none() || !single;
                if let Some(first) = first.filter(|_| self.looks_back && own && kind != Kind::Saga) {
                    line(true, format!("compensate.body.reply = '{{{{ steps.s{at}.reply }}}}'"));
                    line(true, format!("compensate.body.status = '{{{{ steps.s{}.status }}}}'", first.name));
                }
                line(true, format!("compensate.retry.attempts = {}", self.undo_attempts));
                line(kind != Kind::Saga && self.urgency != Urgency::Silent, "compensate.priority = 2".into());
                line(undo == Undo::Always, "compensate.on = ['success', 'in_doubt', 'failure']".into());
            }
        }
        toml
    }

    fn smaller(&self) -> Vec<StepPlan> {
        let mut smaller = Vec::new();
        let mut with = |differs: bool, change: &dyn Fn(&mut StepPlan)| {
            if differs {
                let mut step = self.clone();
                change(&mut step);
                smaller.push(step);
            }
        };
        with(self.kind != Kind::Command, &|step| step.kind = Kind::Command);
        with(self.foreach.is_some(), &|step| step.foreach = None);
        with(self.answers != Answers::Word, &|step| step.answers = Answers::Word);
        with(self.looks_back, &|step| step.looks_back = false);
        with(!self.expires, &|step| step.expires = true);
        with(self.urgency != Urgency::Silent, &|step| step.urgency = Urgency::Silent);
        with(self.when.is_some(), &|step| step.when = None);
        with(self.delay, &|step| step.delay = false);
        with(self.optional, &|step| step.optional = false);
        with(self.pivot, &|step| step.pivot = false);
        with(self.undo != Undo::Command, &|step| step.undo = Undo::Command);
        with(self.attempts > 1, &|step| step.attempts = 1);
        with(self.undo_attempts > 1, &|step| step.undo_attempts = 1);
        with(self.timeout > 1, &|step| step.timeout = 1);
        smaller
    }
}
