//! Expressions that are more than a path, run by MiniJinja's virtual machine.
//!
//! They are compiled by MiniJinja and then changed in two ways. Paths (`input.a.b`) become one lookup each, so that they
//! mean exactly what they mean without MiniJinja. Operators become filters of ours, which are exact and bounded. Neither
//! changes the number of instructions, so jumps stay right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use minijinja::machinery::ast::Expr;
use minijinja::machinery::{CodeGenerator, Instruction, Instructions, eval, make_string_output};
use minijinja::value::Object;
use minijinja::{AutoEscape, Error, ErrorKind, Value as Dynamic};

use super::builtins::{BUDGET, BUILTINS, Budget};
use super::find::Found;
use super::path::{Path, ROOTS, Segment};
use super::{Scope, TemplateError};

/// A compiled expression.
#[derive(Debug)]
pub(super) struct Program {
    instructions: Instructions<'static>,
    /// What each instruction costs, in all.
    cost: u64,
    paths: Arc<[Path]>,
}

/// What an expression is evaluated in.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) scope: Scope,
    /// Names that the template itself gives, innermost last.
    pub(super) locals: Vec<(Arc<str>, Dynamic)>,
    pub(super) budget: Arc<Budget>,
}

impl Program {
    /// Compiles a parsed expression, in which `locals` are names that the template itself gives.
    pub(super) fn new(expr: &Expr<'static>, source: &'static str, locals: &[&str]) -> Result<Program, TemplateError> {
        let mut generator = CodeGenerator::new("template", source);
        generator.compile_expr(expr);
        let (mut instructions, _) = generator.finish();
        let paths = join_paths(&mut instructions, locals)?;
        let mut length = 0;
        while let Some(instruction) = instructions.get_mut(length) {
            if let Some(filter) = operator(instruction) {
                *instruction = filter;
            }
            length += 1;
        }
        Ok(Program { instructions, cost: u64::from(length) * 32, paths: paths.into() })
    }

    /// Evaluates; the result may be undefined.
    ///
    /// # Errors
    /// Whatever goes wrong; a path that led nowhere is named.
    pub(super) fn eval(&self, frame: &Frame) -> Result<Dynamic, TemplateError> {
        frame.budget.take(self.cost).map_err(TemplateError::from)?;
        let root = Dynamic::from_object(Root { frame: frame.clone(), paths: Arc::clone(&self.paths) });
        let mut unused = String::new();
        let mut output = make_string_output(&mut unused);
        let blocks = BTreeMap::new();
        let environment = &BUILTINS.environment;
        match eval(environment, &self.instructions, root, &blocks, &mut output, AutoEscape::None) {
            Ok((Some(result), _)) if !result.is_undefined() => Ok(result),
            Ok(_) => Err(self.absent(&frame.scope).unwrap_or_else(|| {
                let help = "give its `if` an `else`, or use the filter `default`";
                TemplateError::new("the expression has no value here").help(help)
            })),
            Err(error) if error.kind() == ErrorKind::UndefinedError => {
                Err(self.absent(&frame.scope).unwrap_or_else(|| error.into()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Which of the paths lead nowhere.
    fn absent(&self, scope: &Scope) -> Option<TemplateError> {
        let absent = self.paths.iter().filter_map(|path| match path.find(scope) {
            Ok(Found::Absent(error)) => Some(error.to_string()),
            _ => None,
        });
        let absent: Vec<String> = absent.collect();
        (!absent.is_empty()).then(|| TemplateError::new(absent.join("; ")))
    }
}

/// The names of an expression.
#[derive(Debug)]
struct Root {
    frame: Frame,
    paths: Arc<[Path]>,
}

impl Object for Root {
    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Dynamic> {
        if key == BUDGET {
            return Some(Dynamic::from_dyn_object(Arc::clone(&self.frame.budget)));
        }
        let value = match key.parse().ok().and_then(|at: usize| self.paths.get(at)) {
            Some(path) => self.follow(path)?,
            None => self.frame.locals.iter().rev().find(|(name, _)| **name == *key)?.1.clone(),
        };
        Some(self.frame.budget.charge(&value).map_or_else(Dynamic::from, |()| value))
    }
}

impl Root {
    fn follow(&self, path: &Path) -> Option<Dynamic> {
        match path.find(&self.frame.scope) {
            Ok(Found::Absent(_)) => None,
            Ok(found) => Some(found.dynamic().unwrap_or_else(|error| Dynamic::from(Error::from(error)))),
            Err(error) => Some(Dynamic::from(Error::from(error))),
        }
    }
}

/// Makes each path one lookup by its number.
fn join_paths(instructions: &mut Instructions<'static>, locals: &[&str]) -> Result<Vec<Path>, TemplateError> {
    let targets = jump_targets(instructions);
    let mut paths = Vec::new();
    let mut at = 0;
    while let Some(instruction) = instructions.get(at) {
        let start = at;
        at += 1;
        let Instruction::Lookup(root) = *instruction else { continue };
        if locals.contains(&root) || !ROOTS.contains(&root) {
            continue;
        }
        let mut segments = Vec::new();
        while !targets.contains(&at) {
            match (instructions.get(at), instructions.get(at + 1)) {
                (Some(Instruction::GetAttr(name)), _) => {
                    segments.push(Segment::Key((*name).to_owned()));
                    at += 1;
                }
                (Some(Instruction::LoadConst(key)), Some(Instruction::GetItem)) if !targets.contains(&(at + 1)) => {
                    let Some(segment) = Segment::of_const(key) else { break };
                    segments.push(segment);
                    at += 2;
                }
                _ => break,
            }
        }
        let path = Path::new(root, segments)?;
        let number = paths.iter().position(|known| *known == path).unwrap_or(paths.len());
        if number == paths.len() {
            paths.push(path);
        }
        if let Some(first) = instructions.get_mut(start) {
            *first = Instruction::Lookup(keep(&number.to_string()));
        }
        if let Some(second) = instructions.get_mut(start + 1).filter(|_| at > start + 1) {
            // Past the accesses that the lookup stands for.
            *second = Instruction::Jump(at);
        }
    }
    Ok(paths)
}

fn jump_targets(instructions: &Instructions<'_>) -> BTreeSet<u32> {
    let all = (0..).map_while(|at| instructions.get(at));
    let targets = all.filter_map(|instruction| match instruction {
        Instruction::Jump(target)
        | Instruction::JumpIfFalse(target)
        | Instruction::JumpIfFalseOrPop(target)
        | Instruction::JumpIfTrueOrPop(target)
        | Instruction::Iterate(target) => Some(*target),
        _ => None,
    });
    targets.collect()
}

/// The filter that does the work of an operator: it takes its operands from the stack in the same way.
fn operator(instruction: &Instruction<'_>) -> Option<Instruction<'static>> {
    // Not one of the numbered slots in which MiniJinja keeps filters that it has looked up.
    const UNCACHED: u8 = u8::MAX;
    let (name, operands) = match instruction {
        Instruction::Add => ("+", 2),
        Instruction::Sub => ("-", 2),
        Instruction::Mul => ("*", 2),
        Instruction::Div => ("/", 2),
        Instruction::IntDiv => ("//", 2),
        Instruction::Rem => ("%", 2),
        Instruction::Pow => ("**", 2),
        Instruction::StringConcat => ("~", 2),
        Instruction::Neg => ("0-", 1),
        _ => return None,
    };
    Some(Instruction::ApplyFilter(name, Some(operands), UNCACHED))
}

/// Keeps a text for as long as the process lives, once however often it is asked: compiled expressions borrow theirs.
/// What a reload adds is what it changed, some tens of bytes for each expression.
pub(super) fn keep(text: &str) -> &'static str {
    static KEPT: LazyLock<Mutex<BTreeSet<&'static str>>> = LazyLock::new(Mutex::default);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept.get(text) {
        return known;
    }
    let leaked: &'static str = Box::leak(text.to_owned().into_boxed_str());
    kept.insert(leaked);
    leaked
}
