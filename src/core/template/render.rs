//! Rendering: the text around expressions, and the blocks `if`, `for` and `set`.

use std::sync::Arc;

use minijinja::Value as Dynamic;
use serde_json::Value;

use super::builtins::Budget;
use super::compile::{Form, Loop, Piece, Target, Term};
use super::program::Frame;
use super::value::{json, text};
use super::{MAX_TEXT, Scope, TemplateError};

/// What one rendering may look up and compute: sixteen times the largest message, some ten milliseconds.
pub(super) const BUDGET: u64 = 16 * 1024 * 1024;

/// Renders a template.
pub(super) fn form(form: &Form, scope: &Scope) -> Result<Value, TemplateError> {
    match form {
        Form::Whole(term) => whole(term, scope),
        Form::Text(pieces) => {
            let mut writer = Writer { text: String::new(), scope, frame: None };
            writer.pieces(pieces)?;
            Ok(Value::String(writer.text))
        }
    }
}

/// Evaluates an expression.
pub(super) fn whole(term: &Term, scope: &Scope) -> Result<Value, TemplateError> {
    match term {
        Term::Path(path) => Ok(path.find(scope)?.value()?.into_owned()),
        Term::Program(program) => json(&program.eval(&frame(scope))?),
    }
}

/// Judges an expression.
pub(super) fn holds(term: &Term, scope: &Scope) -> Result<bool, TemplateError> {
    Ok(Writer { text: String::new(), scope, frame: None }.eval(term)?.is_true())
}

fn frame(scope: &Scope) -> Frame {
    Frame { scope: scope.clone(), locals: Vec::new(), budget: Arc::new(Budget::new(BUDGET)) }
}

struct Writer<'a> {
    text: String,
    scope: &'a Scope,
    /// Made when the first program needs it.
    frame: Option<Frame>,
}

impl Writer<'_> {
    fn frame(&mut self) -> &mut Frame {
        self.frame.get_or_insert_with(|| frame(self.scope))
    }

    fn pieces(&mut self, pieces: &[Piece]) -> Result<(), TemplateError> {
        pieces.iter().try_for_each(|piece| self.piece(piece))
    }

    fn piece(&mut self, piece: &Piece) -> Result<(), TemplateError> {
        match piece {
            Piece::Raw(raw) => self.write(raw),
            Piece::Emit(Term::Path(path)) => {
                let found = path.find(self.scope)?;
                self.write(&text(&*found.value()?))
            }
            Piece::Emit(Term::Program(program)) => {
                let value = json(&program.eval(self.frame())?)?;
                self.write(&text(&value))
            }
            Piece::If { test, then, otherwise } => {
                let branch = if self.eval(test)?.is_true() { then } else { otherwise };
                self.scoped(branch)
            }
            Piece::For(each) => self.each(each),
            Piece::Set { target, value } => {
                let value = self.eval(value)?;
                self.bind(target, value)
            }
        }
    }

    fn write(&mut self, piece: &str) -> Result<(), TemplateError> {
        if self.text.len() + piece.len() > MAX_TEXT {
            return Err(TemplateError::new(format!("the text would be longer than {MAX_TEXT} bytes")));
        }
        self.text.push_str(piece);
        Ok(())
    }

    /// A block: the names that it gives end with it.
    fn scoped(&mut self, pieces: &[Piece]) -> Result<(), TemplateError> {
        let known = self.frame.as_ref().map_or(0, |frame| frame.locals.len());
        let result = self.pieces(pieces);
        if let Some(frame) = &mut self.frame {
            frame.locals.truncate(known);
        }
        result
    }

    fn each(&mut self, each: &Loop) -> Result<(), TemplateError> {
        let known = self.frame().locals.len();
        let mut items = Vec::new();
        for item in self.eval(&each.over)?.try_iter().map_err(TemplateError::from)?.checked() {
            let item = item?;
            self.frame().budget.charge(&item)?;
            if let Some(only) = &each.only {
                self.bind(&each.target, item.clone())?;
                let wanted = self.eval(only)?.is_true();
                self.frame().locals.truncate(known);
                if !wanted {
                    continue;
                }
            }
            items.push(item);
        }
        if items.is_empty() {
            return self.scoped(&each.empty);
        }
        let length = items.len();
        for (at, item) in items.into_iter().enumerate() {
            // What a turn costs besides what it looks up.
            self.frame().budget.take(64)?;
            self.bind(&each.target, item)?;
            let about = [
                ("index", Dynamic::from(at + 1)),
                ("index0", Dynamic::from(at)),
                ("first", Dynamic::from(at == 0)),
                ("last", Dynamic::from(at + 1 == length)),
                ("length", Dynamic::from(length)),
            ];
            self.frame().locals.push(("loop".into(), Dynamic::from_pairs(about)));
            self.scoped(&each.body)?;
            self.frame().locals.truncate(known);
        }
        Ok(())
    }

    fn bind(&mut self, target: &Target, value: Dynamic) -> Result<(), TemplateError> {
        let names = match target {
            Target::Name(name) => {
                self.frame().locals.push((Arc::clone(name), value));
                return Ok(());
            }
            Target::Tuple(names) => names,
        };
        let items: Vec<Dynamic> = value.try_iter().map_err(TemplateError::from)?.checked().collect::<Result<_, _>>()?;
        if items.len() != names.len() {
            let message = format!("expected {} values to unpack, found {}", names.len(), items.len());
            return Err(TemplateError::new(message));
        }
        self.frame().locals.extend(names.iter().cloned().zip(items));
        Ok(())
    }

    fn eval(&mut self, term: &Term) -> Result<Dynamic, TemplateError> {
        match term {
            Term::Program(program) => program.eval(self.frame()),
            Term::Path(path) => path.find(self.scope)?.dynamic(),
        }
    }
}
