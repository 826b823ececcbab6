"""From definitions to jobs: layers of settings, one job for each instance, identities from templates."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from erpsync.config.document import Document, Table, did_you_mean
from erpsync.config.identity import judge_unused, read_identity
from erpsync.config.instance import instance_variables
from erpsync.config.layer import Spot, merge
from erpsync.config.reading import (
    Where,
    check_name,
    complain,
    expanded,
    judge_template,
    read_section,
)
from erpsync.config.relation import Relations, former_names
from erpsync.config.schedule import read_schedules
from erpsync.config.section import JobSection
from erpsync.config.source import Keys
from erpsync.core.instance import Identity, Instance
from erpsync.core.job import Calendar, Job, RetryPolicy, Schedule, Window

_OWN = frozenset({
    "instances", "identity", "schedule", "settings", "timezone", "retry", "blackout", "window", "pool", "formerly",
})  # fmt: skip
"""Keys that do not go into a job as they are."""


@dataclass(slots=True)
class FanOut:
    """Gathers the jobs and the identities they use."""

    document: Document
    instances: Mapping[str, Instance]
    calendars: Mapping[str, Calendar]
    pools: Mapping[str, int]
    timezone: str
    jobs: dict[str, Job] = field(default_factory=dict)
    identities: dict[str, Identity] = field(default_factory=dict)
    _read: set[tuple[str, str]] = field(default_factory=set)
    _placed: dict[str, set[str]] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Read all identities that have an instance and all jobs."""
        for name, table in self.document.named("identities").items():
            check_name(self.document, ("identities", name))
            if "instance" in table:
                self._fixed_instance(name)
        for definition, table in self.document.named("jobs").items():
            check_name(self.document, ("jobs", definition))
            self._definition(definition, merge(self.document.root.get("defaults", {}), table))
        used = {name for name, _ in self._read}
        for name in self.document.named("identities"):
            if name not in used:
                judge_unused(self.document, name, self.instances)
        self._check_overrides()
        self.jobs = Relations(self.document, self.jobs, self._names, self._placed.keys()).related()

    def _definition(self, definition: str, table: Table) -> None:
        """Read the jobs of one definition."""
        before, ran = len(self.document.found), False
        spots = self._spots(definition, table)
        sound = len(self.document.found) == before
        if sound or spots:
            self._placed[definition] = {instance.name for instance in spots if instance}
        for instance in spots:
            if self._override(instance, definition).get("enabled") is not False:
                spot = Spot(self.document, definition, instance.name if instance else None)
                self._job(spot, table, instance)
                ran = True
        if not ran:
            where = Spot(self.document, definition, None).where
            judge_template(self.document, JobSection, table, where)
            self._schedules(table, where)
            if sound and len(self.document.found) == before:
                self.document.add("W105", f'the job "{definition}" runs nowhere', where(("instances",)))

    def _spots(self, definition: str, table: Table) -> list[Instance | None]:
        """The instances of a definition; [None] for a job that needs none."""
        where = Spot(self.document, definition, None).where
        if "instances" in table:
            return list(self._selected(table["instances"], where(("instances",))))
        name = table.get("identity")
        if not isinstance(name, str) or name not in self.document.named("identities"):
            return [None]  # an unknown identity is told with the job
        if "instance" not in self.document.named("identities")[name]:
            message = f'the identity "{name}" is a template and the job has no `instances`'
            hint = 'give the job instances = ["*"], or the identity an `instance`'
            self.document.add("E116", message, where(("identity",)), hint=hint)
            return []
        return [self._fixed_instance(name)]

    def _selected(self, selectors: object, keys: Keys) -> Iterator[Instance]:
        """The instances that any selector takes and no "!" selector leaves out."""
        texts = [selectors] if isinstance(selectors, str) else selectors
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return  # told with the section of the unused definition
        only_leaving_out = texts and all(text.startswith("!") for text in texts)
        taken = set(self.instances) if only_leaving_out else set()
        left: set[str] = set()
        for index, text in enumerate(texts):
            leaves_out = text.startswith("!")
            matching = self._matching(text.removeprefix("!"), (*keys, index), leaves_out=leaves_out)
            left.update(matching) if leaves_out else taken.update(matching)
        yield from (instance for name, instance in self.instances.items() if name in taken - left)

    def _matching(self, selector: str, keys: Keys, *, leaves_out: bool) -> set[str]:
        if selector in self.instances:
            return {selector}
        if selector.startswith("tag:"):
            tag = selector.removeprefix("tag:")
            matching = {name for name, instance in self.instances.items() if tag in instance.tags}
        else:
            matching = {name for name in self.instances if fnmatchcase(name, selector)}
        if not matching:
            glob = selector.startswith("tag:") or any(sign in selector for sign in "*?[")
            if not glob:
                self._unknown("instance", selector, self.instances, self.document.existing(keys))
            elif not leaves_out:
                tags = [f"tag:{tag}" for instance in self.instances.values() for tag in sorted(instance.tags)]
                hint = did_you_mean(selector, tags) if selector.startswith("tag:") else ""
                message = f'"{selector}" matches no instance'
                self.document.add("W105", message, self.document.existing(keys), hint=hint)
        return matching

    def _job(self, spot: Spot, table: Table, instance: Instance | None) -> None:
        """Read one job out of its merged layers."""
        table = merge(table, self._override(instance, spot.definition))
        variables = instance_variables(instance) if instance else {}
        variables["job"] = spot.definition
        named = {"identity": table.get("identity")}
        identity = expanded(self.document, named, variables, spot.where)["identity"]
        if isinstance(identity, str):
            variables["identity"] = identity
        table = expanded(self.document, table | {"identity": identity}, variables, spot.where)
        if identity is None:
            del table["identity"]
        section = read_section(self.document, JobSection, table, spot.where)
        schedules = self._schedules(table, spot.where)
        who = self._identity(spot, identity, instance) if isinstance(identity, str) else None
        name = f"{spot.definition}@{instance.name}" if instance and "instances" in table else spot.definition
        self._names.add(name)
        if section is None:
            return
        if section.start and section.end and section.end <= section.start:
            self.document.add("E105", "end must be later than start", spot.where(("end",)))
        self.jobs[name] = Job(
            name=name,
            definition=spot.definition,
            identity=who,
            instance=instance.name if instance else None,
            schedules=schedules,
            settings=section.settings or {},
            timezone=self._timezone(spot, section, instance),
            retry=RetryPolicy(**section.retry.model_dump(exclude_unset=True) if section.retry else {}),
            blackout=tuple(self._blackout(spot, section.blackout or ())),
            window=Window(found.from_, found.to, found.at_end) if (found := section.window) else None,
            pool=self._pool(spot, section.pool),
            formerly=former_names(name, section.formerly or ()),
            **{key: getattr(section, key) for key in section.model_fields_set - _OWN},
        )

    def _schedules(self, table: Table, where: Where) -> tuple[Schedule, ...]:
        schedules, wrong = read_schedules(table.get("schedule", "manual"))
        for complaint in wrong:
            complain(self.document, complaint, lambda keys: where(("schedule", *keys)))
        return schedules

    def _blackout(self, spot: Spot, names: Iterable[str]) -> Iterator[Calendar]:
        for index, name in enumerate(names):
            if name in self.calendars:
                yield self.calendars[name]
            else:
                self._unknown("calendar", name, self.calendars, spot.where(("blackout", index)))

    def _pool(self, spot: Spot, name: str | None) -> str | None:
        if name is not None and name not in self.pools:
            self._unknown("pool", name, self.pools, spot.where(("pool",)))
        return name

    def _timezone(self, spot: Spot, section: JobSection, instance: Instance | None) -> str:
        """The nearest zone: the job's own, its instance's, that of [defaults], the daemon's."""
        origin = spot.origin(("timezone",))
        if section.timezone and origin and origin[0] != "defaults":
            return section.timezone
        return (instance and instance.timezone) or section.timezone or self.timezone

    def _identity(self, spot: Spot, name: str, instance: Instance | None) -> str | None:
        """The name of the job's identity, which is read when it is first met."""
        keys = spot.where(("identity",))
        tables = self.document.named("identities")
        if name not in tables:
            self._unknown("identity", name, tables, keys)
            return None
        if "instance" in tables[name]:
            home = self._fixed_instance(name)
            if instance and home and home.name != instance.name:
                message = f'the identity "{name}" belongs to "{home.name}", not to "{instance.name}"'
                self.document.add("E116", message, keys, hint="without `instance` it is a template for all")
            return name
        if instance is None:
            message = f'the identity "{name}" is a template and the job has no instance'
            hint = 'give the job instances = ["*"], or the identity an `instance`'
            self.document.add("E116", message, keys, hint=hint)
            return None
        self._read_identity(name, instance)
        return f"{name}@{instance.name}"

    def _fixed_instance(self, name: str) -> Instance | None:
        """The instance of an identity that has one, or None after its problem was kept."""
        home = self.document.named("identities")[name]["instance"]
        instance = self.instances.get(home) if isinstance(home, str) else None
        if instance is not None:
            self._read_identity(name, instance)
        elif isinstance(home, str):
            self._unknown("instance", home, self.instances, ("identities", name, "instance"))
        else:
            self._read_identity(name, Instance("", "erpnet"))  # tells the wrong type
        return instance

    def _read_identity(self, name: str, instance: Instance) -> None:
        if (name, instance.name) not in self._read:
            self._read.add((name, instance.name))
            identity = read_identity(self.document, name, instance)
            if identity is not None:
                self.identities[identity.name] = identity

    def _unknown(self, kind: str, name: str, known: Iterable[str], keys: Keys) -> None:
        self.document.add("E108", f'there is no {kind} "{name}"', keys, hint=did_you_mean(name, known))

    def _override(self, instance: Instance | None, definition: str) -> Table:
        """What the instance changes in the definition."""
        if instance is None:
            return {}
        tables = self.document.named("instances")[instance.name].get("jobs")
        table = tables.get(definition) if isinstance(tables, dict) else None
        return table if isinstance(table, dict) else {}

    def _check_overrides(self) -> None:
        """An instance changes only jobs that run there, and not where they run."""
        definitions = self.document.named("jobs")
        for instance, table in self.document.named("instances").items():
            tables = table.get("jobs")
            for definition, override in tables.items() if isinstance(tables, dict) else ():
                keys = ("instances", instance, "jobs", definition)
                if definition not in definitions:
                    self._unknown("job", definition, definitions, keys)
                elif instance not in self._placed.get(definition, {instance}):
                    message = f'the job "{definition}" does not run at "{instance}"'
                    hint = "see its `instances`, or its identity's `instance`"
                    self.document.add("E115", message, keys, hint=hint)
                if isinstance(override, dict) and "instances" in override:
                    message, hint = (
                        "an instance cannot change `instances`",
                        "enabled = false leaves a job out",
                    )
                    self.document.add("E103", message, (*keys, "instances"), hint=hint)
