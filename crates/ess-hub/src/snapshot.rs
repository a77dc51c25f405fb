//! Partners and rules as one immutable snapshot that is swapped whole: what began with one sees it to the end.
//!
//! Most partners want the same: those with one subscription, filter and pin form a group, and who gets an event is decided
//! for groups. So a publish costs the same for one partner and for 10,000.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ess_core::id::{PartnerId, PartnerNo, Subject, Version};
use ess_core::nearest::nearest;
use ess_core::partner::{Glob, Partner, Tests};
use ess_core::problem::{Code, Problem};
use ess_store::Audience;

use crate::registry::Registered;
use crate::rules::Rules;
use crate::view::BlockedPartner;

/// Subjects whose groups a snapshot remembers.
const SUBJECTS_MAX: usize = 16_384;
/// Partners in the audiences that a snapshot remembers: 4 bytes each.
const REMEMBERED_PARTNERS_MAX: usize = 4_000_000;

/// What decides who gets an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Taste {
    subscribe: Vec<Glob>,
    filter: Option<String>,
    accepts_version: Vec<(Glob, Version)>,
    skips_tests: bool,
}

impl Taste {
    fn of(partner: &Partner) -> Self {
        Self {
            subscribe: partner.subscribe.clone(),
            filter: partner.filter.clone(),
            accepts_version: partner.accepts_version.clone(),
            skips_tests: partner.tests == Tests::Skip,
        }
    }
}

/// Partners of one taste.
#[derive(Debug)]
struct Group {
    sample: Arc<Registered>,
    skips_tests: bool,
    numbers: Vec<PartnerNo>,
}

/// Partners who look at the payload first, by the predicate that they share.
#[derive(Debug)]
pub struct Filtered {
    /// The predicate.
    pub filter: String,
    /// Whose it is.
    pub partners: Arc<[PartnerNo]>,
}

/// Who gets an event of a subject, before filters.
#[derive(Debug)]
pub struct Wanting {
    /// Everyone.
    pub audience: Arc<Audience>,
    /// Those of them who look at the payload first.
    pub filtered: Vec<Filtered>,
    /// The versions that they pinned.
    pub versions: Vec<Version>,
}

/// What was found out before. Who wants a subject is shared by all subjects that the same groups want in the same versions.
#[derive(Debug, Default)]
struct Remembered {
    by_subject: HashMap<(Subject, bool), Arc<Wanting>>,
    by_groups: HashMap<Vec<(usize, Option<Version>)>, Arc<Wanting>>,
    partners: usize,
}

/// Partners and rules at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// By id.
    pub partners: BTreeMap<PartnerId, Arc<Registered>>,
    /// By number.
    pub by_no: HashMap<PartnerNo, Arc<Registered>>,
    /// The names of partners that were removed: they stay on record.
    pub former: Arc<BTreeMap<PartnerNo, PartnerId>>,
    /// By what payloads are turned and judged.
    pub rules: Arc<Rules>,
    /// Made when first asked for: thousands of partners are added one after the other.
    groups: OnceLock<Vec<Group>>,
    /// Guards what was found out; held for look-ups and the decision itself.
    remembered: Mutex<Remembered>,
}

impl Snapshot {
    /// A snapshot of these.
    #[must_use]
    pub fn new(
        partners: BTreeMap<PartnerId, Arc<Registered>>,
        former: Arc<BTreeMap<PartnerNo, PartnerId>>,
        rules: Arc<Rules>,
    ) -> Self {
        let by_no = partners.values().map(|registered| (registered.no, registered.clone())).collect();
        Self { partners, by_no, former, rules, groups: OnceLock::new(), remembered: Mutex::default() }
    }

    /// The partner, or the problem that says it is not there.
    ///
    /// # Errors
    /// No partner has this id.
    pub fn partner(&self, id: &PartnerId) -> Result<&Arc<Registered>, Problem> {
        self.partners.get(id).ok_or_else(|| {
            let known: Vec<&str> = self.partners.keys().map(PartnerId::as_str).collect();
            let hint = match nearest(id.as_str(), &known) {
                Some(meant) => format!("did you mean `{meant}`? `hms-ess partner list` shows the partners"),
                None => "`hms-ess partner list` shows the partners".to_owned(),
            };
            Problem::new(Code::NotFound, format!("there is no partner {id}")).with_hint(hint)
        })
    }

    /// What a partner is or was called.
    #[must_use]
    pub fn name(&self, no: PartnerNo) -> PartnerId {
        let present = self.by_no.get(&no).map(|registered| &registered.partner.id);
        let name = present.or_else(|| self.former.get(&no));
        // One that was added a moment after this snapshot is not in it.
        name.cloned().unwrap_or_else(|| PartnerId::trusted(&format!("partner-{}", no.0)))
    }

    /// Who gets an event of this subject.
    #[must_use]
    pub fn wanting(&self, subject: &Subject, test: bool) -> Arc<Wanting> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (subject.clone(), test);
        if let Some(known) = remembered.by_subject.get(&key) {
            return known.clone();
        }
        let groups = self.groups.get_or_init(|| group(self.partners.values()));
        let fits = |group: &Group| group.sample.partner.wants(subject) && !(test && group.skips_tests);
        let fitting: Vec<(usize, Option<Version>)> = groups
            .iter()
            .enumerate()
            .filter(|(_, group)| fits(group))
            .map(|(index, group)| (index, group.sample.partner.pinned_version(subject)))
            .collect();
        let known = remembered.by_groups.get(&fitting).cloned();
        let found = known.unwrap_or_else(|| {
            let found = Arc::new(wanting(groups, &fitting));
            if remembered.partners + found.audience.len() > REMEMBERED_PARTNERS_MAX {
                *remembered = Remembered::default();
            }
            // An audience without partners takes room too.
            remembered.partners += found.audience.len() + 16;
            remembered.by_groups.insert(fitting, found.clone());
            found
        });
        if remembered.by_subject.len() >= SUBJECTS_MAX {
            remembered.by_subject.clear();
        }
        remembered.by_subject.insert(key, found.clone());
        found
    }

    /// The partners of an audience who pinned a version that can't be had, each with the same reason.
    #[must_use]
    pub fn those_on(
        &self,
        audience: &Audience,
        subject: &Subject,
        version: Version,
        blocked: &crate::cells::Blocked,
    ) -> Vec<BlockedPartner> {
        audience
            .partners()
            .iter()
            .filter_map(|no| self.by_no.get(no))
            .filter(|registered| registered.partner.pinned_version(subject) == Some(version))
            .map(|registered| BlockedPartner {
                partner: registered.partner.id.clone(),
                reason: blocked.reason.clone(),
                mend: blocked.mend.clone(),
            })
            .collect()
    }
}

fn group<'a>(partners: impl Iterator<Item = &'a Arc<Registered>>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut known: HashMap<Taste, usize> = HashMap::new();
    for registered in partners {
        let taste = Taste::of(&registered.partner);
        let skips_tests = taste.skips_tests;
        let index = *known.entry(taste).or_insert_with(|| {
            groups.push(Group { sample: registered.clone(), skips_tests, numbers: Vec::new() });
            groups.len() - 1
        });
        groups[index].numbers.push(registered.no);
    }
    groups
}

fn wanting(groups: &[Group], fitting: &[(usize, Option<Version>)]) -> Wanting {
    let mut numbers = Vec::new();
    let mut filtered: BTreeMap<&str, Vec<PartnerNo>> = BTreeMap::new();
    let mut versions: Vec<Version> = Vec::new();
    for (index, version) in fitting {
        let group = &groups[*index];
        numbers.extend_from_slice(&group.numbers);
        if let Some(filter) = &group.sample.partner.filter {
            filtered.entry(filter).or_default().extend_from_slice(&group.numbers);
        }
        if let Some(version) = version
            && !versions.contains(version)
        {
            versions.push(*version);
        }
    }
    let filtered = filtered.into_iter();
    let filtered = filtered.map(|(filter, partners)| Filtered { filter: filter.to_owned(), partners: partners.into() });
    Wanting { audience: Arc::new(Audience::new(numbers)), filtered: filtered.collect(), versions }
}
