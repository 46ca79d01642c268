//! From MiniJinja's syntax tree to [`Form`]: what is only paths and text needs no virtual machine; the rest is compiled to
//! [`Program`]s. All that can be known to be wrong without a saga is found here.

use std::ops::Range;
use std::sync::Arc;

use minijinja::machinery::ast::{BinOpKind, CallArg, CompareOpKind, Expr, ForLoop, IfCond, Stmt, UnaryOpKind};
use minijinja::machinery::{Span, Token, parse, parse_expr, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::builtins::{BUILTINS, FUNCTIONS};
use super::path::{Path, ROOTS, Segment, chain, did_you_mean, unknown_root};
use super::program::{Program, keep};
use super::{Reference, TemplateError};

/// A template longer than this is no template.
const MAX_SOURCE: usize = 64 * 1024;
/// Blocks within blocks.
const MAX_DEPTH: usize = 16;

/// What may make an expression deeper, or branches of one `if`. Trees are gone through by recursion, in MiniJinja too, and it bounds only
/// what is in brackets.
const MAX_LEVELS: usize = 250;

/// What a template does.
#[derive(Debug)]
pub(super) enum Form {
    /// One whole `{{ … }}`: its value, of whatever type.
    Whole(Term),
    /// Text.
    Text(Vec<Piece>),
}

/// An expression.
#[derive(Debug)]
pub(super) enum Term {
    Path(Path),
    Program(Program),
}

/// A piece of a text.
#[derive(Debug)]
pub(super) enum Piece {
    Raw(String),
    Emit(Term),
    If { test: Term, then: Vec<Piece>, otherwise: Vec<Piece> },
    For(Box<Loop>),
    Set { target: Target, value: Term },
}

/// `{% for target in over if only %} body {% else %} empty {% endfor %}`.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) target: Target,
    pub(super) over: Term,
    pub(super) only: Option<Term>,
    pub(super) body: Vec<Piece>,
    pub(super) empty: Vec<Piece>,
}

/// What a value is given to.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Name(Arc<str>),
    Tuple(Vec<Arc<str>>),
}

/// Compiles a string with `{{ … }}` in it.
pub(super) fn template(source: &str) -> Result<(Form, Vec<Reference>), TemplateError> {
    checked_length(source)?;
    let syntax = || SyntaxConfig::builder().keep_trailing_newline(true).build().map_err(syntax_error(source));
    checked_levels(source, false, syntax()?)?;
    if let Stmt::Template(root) = parse(source, "template", syntax()?).map_err(syntax_error(source))? {
        let mut plain = Plain::default();
        if let Some(form) = plain.form(&root.children)? {
            return Ok((form, plain.references));
        }
    }
    let source = keep(source);
    let tree = parse(source, "template", syntax()?).map_err(syntax_error(source))?;
    let mut compiler = Compiler::new(source);
    let Stmt::Template(root) = &tree else { return Ok((Form::Text(Vec::new()), Vec::new())) };
    let form = match root.children.as_slice() {
        [Stmt::EmitExpr(only)] => Form::Whole(compiler.term(&only.expr)?),
        children => Form::Text(compiler.block(children)?),
    };
    Ok((form, compiler.references))
}

/// Compiles a bare expression.
pub(super) fn expression(source: &str) -> Result<(Term, Vec<Reference>), TemplateError> {
    checked_length(source)?;
    if source.contains("{{") || source.contains("{%") {
        let error = TemplateError::new("this is an expression already");
        return Err(error.help("write it without `{{` and `}}`").at(0..source.len()));
    }
    checked_levels(source, true, SyntaxConfig::default())?;
    let mut plain = Plain::default();
    if let Some(path) = plain.path(&parse_expr(source).map_err(syntax_error(source))?)? {
        return Ok((Term::Path(path), plain.references));
    }
    let source = keep(source);
    let mut compiler = Compiler::new(source);
    let term = compiler.term(&parse_expr(source).map_err(syntax_error(source))?)?;
    Ok((term, compiler.references))
}

fn checked_length(source: &str) -> Result<(), TemplateError> {
    if source.len() <= MAX_SOURCE {
        return Ok(());
    }
    Err(TemplateError::new(format!("a template may be {MAX_SOURCE} bytes long, this one has {}", source.len())))
}

/// Counts, before anything recurses, what may nest.
fn checked_levels(source: &str, expression: bool, syntax: SyntaxConfig) -> Result<(), TemplateError> {
    let (mut levels, mut branches) = (0, 0);
    // What is no token at all, the parser reports.
    for (token, span) in tokenize(source, expression, syntax).map_while(Result::ok) {
        match token {
            Token::VariableStart | Token::BlockStart => levels = 0,
            Token::Ident("elif") => branches += 1,
            Token::Ident("not" | "and" | "or" | "is" | "in" | "if" | "else") => levels += 1,
            Token::Ident(_) | Token::TemplateData(_) | Token::VariableEnd | Token::BlockEnd => {}
            Token::Str(_) | Token::String(_) | Token::Int(_) | Token::Int128(_) | Token::Float(_) => {}
            Token::Comma | Token::Colon | Token::BracketClose | Token::ParenClose | Token::BraceClose => {}
            _ => levels += 1,
        }
        if levels > MAX_LEVELS || branches > MAX_LEVELS {
            let message = format!("an expression may have {MAX_LEVELS} operators, and an `if` as many branches");
            return Err(wrong(span, message, "make it shorter, or compute a part of it in a `{% set x = … %}`"));
        }
    }
    Ok(())
}

fn syntax_error(source: &str) -> impl Fn(minijinja::Error) -> TemplateError {
    move |error| {
        let span = error.range().map(|range| range.start.min(source.len())..range.end.min(source.len()));
        let help = "look at the brackets and quotes: `{{ input.order_id }}`, `{{ steps.pay.reply.id | upper }}`";
        TemplateError { span, ..TemplateError::from(error).help(help) }
    }
}

fn bytes(span: Span) -> Range<usize> {
    span.start_offset as usize..span.end_offset as usize
}

fn wrong(span: Span, message: impl Into<String>, help: impl Into<String>) -> TemplateError {
    TemplateError::new(message).help(help).at(bytes(span))
}

/// Reads trees of nothing but text and paths.
#[derive(Default)]
struct Plain {
    references: Vec<Reference>,
}

impl Plain {
    fn form(&mut self, children: &[Stmt<'_>]) -> Result<Option<Form>, TemplateError> {
        if let [Stmt::EmitExpr(only)] = children {
            return Ok(self.path(&only.expr)?.map(|path| Form::Whole(Term::Path(path))));
        }
        let mut pieces = Vec::new();
        for child in children {
            pieces.push(match child {
                Stmt::EmitRaw(raw) => Piece::Raw(raw.raw.to_owned()),
                Stmt::EmitExpr(emit) => match self.path(&emit.expr)? {
                    Some(path) => Piece::Emit(Term::Path(path)),
                    None => return Ok(None),
                },
                _ => return Ok(None),
            });
        }
        Ok(Some(Form::Text(pieces)))
    }

    fn path(&mut self, expr: &Expr<'_>) -> Result<Option<Path>, TemplateError> {
        let Some((root, start, segments)) = chain(expr) else { return Ok(None) };
        let span = start as usize..expr.span().end_offset as usize;
        let path = Path::new(root, segments).map_err(|error| error.at(span.clone()))?;
        self.references.push(Reference { path: path.words(), span, operator: None, texts: Vec::new() });
        Ok(Some(path))
    }
}

/// Reads any tree.
struct Compiler {
    source: &'static str,
    references: Vec<Reference>,
    /// Names that the template itself gives.
    locals: Vec<&'static str>,
    depth: usize,
}

impl Compiler {
    fn new(source: &'static str) -> Compiler {
        Compiler { source, references: Vec::new(), locals: Vec::new(), depth: 0 }
    }

    fn block(&mut self, children: &[Stmt<'static>]) -> Result<Vec<Piece>, TemplateError> {
        let known = self.locals.len();
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(TemplateError::new(format!("blocks are nested more than {MAX_DEPTH} deep")));
        }
        let pieces = children.iter().map(|child| self.piece(child)).collect();
        self.depth -= 1;
        self.locals.truncate(known);
        pieces
    }

    fn piece(&mut self, child: &Stmt<'static>) -> Result<Piece, TemplateError> {
        let (block, span) = match child {
            Stmt::EmitRaw(raw) => return Ok(Piece::Raw(raw.raw.to_owned())),
            Stmt::EmitExpr(emit) => return self.term(&emit.expr).map(Piece::Emit),
            Stmt::IfCond(cond) => return self.condition(cond),
            Stmt::ForLoop(each) if !each.recursive => return self.each(each),
            Stmt::Set(set) => {
                let value = self.term(&set.expr)?;
                let target = self.target(&set.target)?;
                return Ok(Piece::Set { target, value });
            }
            Stmt::Template(it) => return Err(wrong(it.span(), "a template inside a template", "take it out")),
            Stmt::ForLoop(it) => ("for … recursive", it.span()),
            Stmt::WithBlock(it) => ("with", it.span()),
            Stmt::SetBlock(it) => ("set … endset", it.span()),
            Stmt::AutoEscape(it) => ("autoescape", it.span()),
            Stmt::FilterBlock(it) => ("filter", it.span()),
            Stmt::Do(it) => ("do", it.span()),
        };
        Err(wrong(span, format!("there is no `{block}` block"), "there are `if`, `for` and `set`"))
    }

    fn condition(&mut self, cond: &IfCond<'static>) -> Result<Piece, TemplateError> {
        let test = self.term(&cond.expr)?;
        Ok(Piece::If { test, then: self.block(&cond.true_body)?, otherwise: self.block(&cond.false_body)? })
    }

    fn each(&mut self, each: &ForLoop<'static>) -> Result<Piece, TemplateError> {
        let over = self.term(&each.iter)?;
        let known = self.locals.len();
        let target = self.target(&each.target)?;
        let only = each.filter_expr.as_ref().map(|only| self.term(only)).transpose()?;
        self.locals.push("loop");
        let body = self.block(&each.body)?;
        self.locals.truncate(known);
        let empty = self.block(&each.else_body)?;
        Ok(Piece::For(Box::new(Loop { target, over, only, body, empty })))
    }

    fn target(&mut self, target: &Expr<'static>) -> Result<Target, TemplateError> {
        let names = match target {
            Expr::Var(var) => {
                self.locals.push(var.id);
                return Ok(Target::Name(var.id.into()));
            }
            Expr::Tuple(tuple) => &tuple.items,
            Expr::List(list) => &list.items,
            other => {
                return Err(wrong(
                    other.span(),
                    "this can't be given a value",
                    "write a name, or several with commas between",
                ));
            }
        };
        let names = names.iter().map(|name| match name {
            Expr::Var(var) => {
                self.locals.push(var.id);
                Ok(var.id.into())
            }
            other => Err(wrong(other.span(), "expected a name", "write names with commas between")),
        });
        names.collect::<Result<_, _>>().map(Target::Tuple)
    }

    fn term(&mut self, expr: &Expr<'static>) -> Result<Term, TemplateError> {
        self.check(expr)?;
        match chain(expr) {
            Some((root, _, segments)) if !self.locals.contains(&root) => Ok(Term::Path(Path::new(root, segments)?)),
            _ => match Program::new(expr, self.source, &self.locals) {
                Ok(program) => Ok(Term::Program(program)),
                Err(error) => Err(error.at(bytes(expr.span()))),
            },
        }
    }

    /// Finds unknown names, notes references.
    fn check(&mut self, expr: &Expr<'static>) -> Result<(), TemplateError> {
        if let Some((root, start, segments)) = chain(expr) {
            return self.reference(root, segments, start as usize..expr.span().end_offset as usize);
        }
        match expr {
            Expr::Var(_) | Expr::Const(_) => Ok(()),
            Expr::GetAttr(attr) => self.check(&attr.expr),
            Expr::GetItem(item) => self.all([&item.expr, &item.subscript_expr]),
            Expr::UnaryOp(op) => self.operand(&op.expr, matches!(op.op, UnaryOpKind::Neg).then_some("-"), Vec::new()),
            Expr::BinOp(op) => {
                let same = matches!(op.op, BinOpKind::Eq | BinOpKind::Ne);
                let texts = |of: &Expr<'static>, compared: bool| if compared { texts(of) } else { Vec::new() };
                let (left, right) = (&op.left, &op.right);
                self.operand(left, operator(&op.op, right), texts(right, same || matches!(op.op, BinOpKind::In)))?;
                self.operand(right, operator(&op.op, left), texts(left, same))?;
                // MiniJinja calculates with constants while it compiles, without our bounds.
                let constant = op.left.as_const().zip(op.right.as_const());
                let grows = constant.is_some_and(|(left, right)| left.len().or(right.len()).is_some());
                if matches!(op.op, BinOpKind::Mul) && grows {
                    return Err(wrong(op.span(), "a constant repeated", "write it out"));
                }
                Ok(())
            }
            Expr::Compare(compare) => {
                let first = compare.ops.first().filter(|it| {
                    matches!(it.op, CompareOpKind::Eq | CompareOpKind::Ne | CompareOpKind::In | CompareOpKind::NotIn)
                });
                self.operand(&compare.expr, None, first.map(|it| texts(&it.expr)).unwrap_or_default())?;
                self.all(compare.ops.iter().map(|op| &op.expr))
            }
            Expr::IfExpr(cond) => self.all([&cond.test_expr, &cond.true_expr].into_iter().chain(&cond.false_expr)),
            Expr::List(list) => self.all(&list.items),
            Expr::Tuple(tuple) => self.all(&tuple.items),
            Expr::Map(map) => self.all(map.keys.iter().chain(&map.values)),
            Expr::Filter(filter) => {
                known(filter.span(), "filter", filter.name, &BUILTINS.filters)?;
                self.all(&filter.expr)?;
                self.arguments(&filter.args)
            }
            Expr::Test(test) => {
                known(test.span(), "test", test.name, &BUILTINS.tests)?;
                self.check(&test.expr)?;
                self.arguments(&test.args)
            }
            Expr::Slice(slice) => {
                let step = slice.step.as_ref().map(Expr::as_const);
                let backwards = slice.start.is_none() && slice.stop.is_none();
                match step.map(|step| step.and_then(|step| step.as_i64())) {
                    None | Some(Some(1..)) => {}
                    Some(Some(-1)) if backwards => {}
                    _ => {
                        return Err(wrong(
                            slice.span(),
                            "no slice can step like this",
                            "step by a positive number, or reverse with `[::-1]`",
                        ));
                    }
                }
                self.all([&slice.expr].into_iter().chain(&slice.start).chain(&slice.stop))
            }
            Expr::Call(call) => match &call.expr {
                Expr::Var(name) => {
                    known(call.span(), "function", name.id, &FUNCTIONS)?;
                    self.arguments(&call.args)
                }
                Expr::GetAttr(method) => {
                    let name = method.name;
                    let help = match BUILTINS.filters.contains(&name) {
                        true => format!("there is a filter: write `… | {name}`"),
                        false => format!("there are filters: {}", BUILTINS.filters.join(", ")),
                    };
                    Err(wrong(call.span(), format!("values have no methods, so no `{name}()`"), help))
                }
                _ => Err(wrong(call.span(), "this is no function", "the only function is `range`")),
            },
        }
    }

    /// `operator`: the one that wants it to be a number; `texts`: what it is compared with.
    fn operand(
        &mut self,
        expr: &Expr<'static>,
        operator: Option<&'static str>,
        texts: Vec<(String, Range<usize>)>,
    ) -> Result<(), TemplateError> {
        let known = self.references.len();
        self.check(expr)?;
        if let (Some(reference), Some(_)) = (self.references.get_mut(known), chain(expr)) {
            (reference.operator, reference.texts) = (operator, texts);
        }
        Ok(())
    }

    fn all<'e>(&mut self, exprs: impl IntoIterator<Item = &'e Expr<'static>>) -> Result<(), TemplateError> {
        exprs.into_iter().try_for_each(|expr| self.check(expr))
    }

    fn arguments(&mut self, args: &[CallArg<'static>]) -> Result<(), TemplateError> {
        args.iter().try_for_each(|arg| match arg {
            CallArg::Pos(expr) | CallArg::Kwarg(_, expr) | CallArg::PosSplat(expr) | CallArg::KwargSplat(expr) => {
                self.check(expr)
            }
        })
    }

    fn reference(&mut self, root: &str, segments: Vec<Segment>, span: Range<usize>) -> Result<(), TemplateError> {
        if self.locals.contains(&root) {
            return Ok(());
        }
        let path = if ROOTS.contains(&root) { Path::new(root, segments) } else { Err(unknown_root(root)) };
        let path = path.map_err(|error| error.at(span.clone()))?;
        self.references.push(Reference { path: path.words(), span, operator: None, texts: Vec::new() });
        Ok(())
    }
}

/// The texts in what something is compared with: in itself, or in a list.
fn texts(expr: &Expr<'_>) -> Vec<(String, Range<usize>)> {
    match expr {
        Expr::Const(text) => text.value.as_str().map(|it| (it.to_owned(), bytes(expr.span()))).into_iter().collect(),
        Expr::List(list) => list.items.iter().flat_map(texts).collect(),
        Expr::Tuple(tuple) => tuple.items.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// How `op` is written, if it wants numbers beside `other`: texts can be joined and compared, too.
fn operator(op: &BinOpKind, other: &Expr<'_>) -> Option<&'static str> {
    let beside_number = || match other {
        Expr::BinOp(op) => matches!(operator(&op.op, &op.left), Some("-" | "*" | "/" | "//" | "%" | "**")),
        other => other.as_const().is_some_and(|constant| constant.is_number()),
    };
    match op {
        BinOpKind::Sub => Some("-"),
        BinOpKind::Mul => Some("*"),
        BinOpKind::Div => Some("/"),
        BinOpKind::FloorDiv => Some("//"),
        BinOpKind::Rem => Some("%"),
        BinOpKind::Pow => Some("**"),
        BinOpKind::Add => beside_number().then_some("+"),
        BinOpKind::Lt => beside_number().then_some("<"),
        BinOpKind::Lte => beside_number().then_some("<="),
        BinOpKind::Gt => beside_number().then_some(">"),
        BinOpKind::Gte => beside_number().then_some(">="),
        _ => None,
    }
}

fn known(span: Span, what: &str, name: &str, all: &[&'static str]) -> Result<(), TemplateError> {
    if all.contains(&name) {
        return Ok(());
    }
    let hint = did_you_mean(name, all.iter().copied());
    let help = hint.unwrap_or_else(|| format!("there are {}", all.join(", ")));
    Err(wrong(span, format!("unknown {what} `{name}`"), help))
}
