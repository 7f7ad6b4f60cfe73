//! What a person sees: a live table on a terminal, plain lines elsewhere, nothing with `--json`.

use std::io::{IsTerminal, stdout};
use std::time::{Duration, UNIX_EPOCH};

use inmesh_pki::clock::{Clock, SystemClock};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Table};
use ratatui::{DefaultTerminal, Frame};
use tokio::time::Instant;

use super::docs;
use super::load::{Load, Seen};
use super::outcome::Outcome;
use super::world::{World, rotations};
use crate::term;

/// How often the screen is drawn.
const FRAME: Duration = Duration::from_millis(200);

/// How the demo is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    Lines,
    Nothing,
    Screen,
}

pub(super) struct Screen {
    show: Show,
    terminal: Option<DefaultTerminal>,
    scene: String,
    outcomes: Vec<Outcome>,
    drawn: Option<Instant>,
}

impl Show {
    /// A screen where there is one, unless machines read.
    pub(super) fn choose(json: bool) -> Self {
        match (json, stdout().is_terminal()) {
            (true, _) => Self::Nothing,
            (false, true) => Self::Screen,
            (false, false) => Self::Lines,
        }
    }
}

impl Screen {
    pub(super) fn new(show: Show) -> Self {
        let terminal = (show == Show::Screen).then(ratatui::init);
        Self {
            show,
            terminal,
            scene: "starting".to_owned(),
            outcomes: Vec::new(),
            drawn: None,
        }
    }

    /// Announces a scene and what it may cost.
    pub(super) fn scene(&mut self, name: &str, may_cost: u64) {
        self.scene = format!("{name} (may cost {may_cost})");
        if self.show == Show::Lines {
            term::print(&format!("- {}", self.scene));
        }
    }

    pub(super) fn outcome(&mut self, outcome: &Outcome) {
        if self.show == Show::Lines {
            term::print(&format!(
                "  {}: {}; cost {}",
                mark(outcome),
                outcome.seen,
                outcome.cost
            ));
        }
        self.outcomes.push(outcome.clone());
    }

    /// Draws what is, if it is time to.
    ///
    /// # Errors
    ///
    /// If the terminal is gone, or the person pressed q or Ctrl-C.
    pub(super) fn draw(&mut self, world: &World, load: &Load) -> anyhow::Result<()> {
        let due = self.drawn.is_none_or(|at| at.elapsed() >= FRAME);
        let Some(terminal) = self.terminal.as_mut().filter(|_| due) else {
            return Ok(());
        };
        self.drawn = Some(Instant::now());
        let (window, total, rows) = (load.window(), load.total(), identities(world));
        let (scene, outcomes) = (&self.scene, &self.outcomes);
        terminal.draw(|frame| draw(frame, scene, outcomes, &window, &total, rows))?;
        while event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()? {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                if key.code == KeyCode::Char('q') || (control && key.code == KeyCode::Char('c')) {
                    anyhow::bail!("ended by a key");
                }
            }
        }
        Ok(())
    }

    /// Gives the terminal back.
    pub(super) fn close(&mut self) {
        if self.terminal.take().is_some() {
            ratatui::restore();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.close();
    }
}

fn mark(outcome: &Outcome) -> &'static str {
    if outcome.ok { "ok" } else { "FAILED" }
}

/// Workload, identity, age of its certificate, rotations.
pub(super) fn identities(world: &World) -> Vec<[String; 4]> {
    let now = SystemClock
        .now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    world
        .meshes
        .iter()
        .map(|(name, mesh)| {
            let status = mesh.status();
            let leaf = status.identity.iter().find(|c| c.kind == "leaf");
            let age = leaf.map_or(0, |c| {
                (now.as_secs() + docs::LEAF.as_secs()).saturating_sub(c.not_after)
            });
            [
                (*name).to_owned(),
                leaf.map(|c| c.id.clone()).unwrap_or_default(),
                format!("{age} s of {} s", docs::LEAF.as_secs()),
                rotations(mesh).to_string(),
            ]
        })
        .collect()
}

fn draw(
    frame: &mut Frame<'_>,
    scene: &str,
    outcomes: &[Outcome],
    window: &Seen,
    total: &Seen,
    identities: Vec<[String; 4]>,
) {
    let rows = u16::try_from(identities.len()).unwrap_or(4) + 3;
    let [head, traffic, certificates, log] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(5),
        Constraint::Length(rows),
        Constraint::Min(3),
    ])
    .areas(frame.area());
    let title = Line::from("mesh demo: load -> web -> cart (v1, v2) -> ledger; q ends it").bold();
    frame.render_widget(
        Paragraph::new(vec![title, Line::from(scene.to_owned()).cyan()]),
        head,
    );

    let ms = |d: Duration| format!("{:.1} ms", d.as_secs_f64() * 1_000.0);
    let row = |name: &'static str, seen: &Seen| {
        let share = |version| Seen::share_of(&seen.versions, version) * 100.0;
        let color = if seen.failures == 0 {
            Color::Green
        } else {
            Color::Yellow
        };
        Row::new(vec![
            name.to_owned(),
            format!("{:.0}/s", seen.rate()),
            format!("{:.2} %", seen.success() * 100.0),
            seen.failures.to_string(),
            ms(seen.quantile(0.5)),
            ms(seen.quantile(0.99)),
            format!("{:.0} %", share("v1")),
            format!("{:.0} %", share("v2")),
        ])
        .style(Style::new().fg(color))
    };
    let header = ["", "rate", "success", "failures", "p50", "p99", "v1", "v2"];
    let table = Table::new(
        [row("this scene", window), row("since start", total)],
        [12, 9, 10, 9, 10, 10, 6, 6].map(Constraint::Length),
    )
    .header(Row::new(header).bold())
    .block(Block::bordered().title("traffic"));
    frame.render_widget(table, traffic);

    let table = Table::new(
        identities.into_iter().map(Row::new),
        [
            Constraint::Length(10),
            Constraint::Min(40),
            Constraint::Length(14),
            Constraint::Length(10),
        ],
    )
    .header(Row::new(["workload", "identity", "certificate", "rotations"]).bold())
    .block(Block::bordered().title("identity"));
    frame.render_widget(table, certificates);

    let lines: Vec<Line<'_>> = outcomes
        .iter()
        .map(|o| {
            let text = format!("{:6} {} - {}", mark(o), o.scene, o.seen);
            if o.ok {
                Line::from(text).green()
            } else {
                Line::from(text).red()
            }
        })
        .collect();
    frame.render_widget(
        Paragraph::new(lines).block(Block::bordered().title("scenes")),
        log,
    );
}
