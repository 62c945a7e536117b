"""The system in SimPy: devices, uplinks and servers through which every request of a workload goes.

This is the reference simulator. A transfer is one event, computed by the link, never a loop over packets.
"""

import dataclasses
from collections.abc import Generator, Sequence

import numpy as np
import simpy

from harness.channel.channel import Channel
from harness.channel.link import Link, ProcessorSharing, wire_bytes
from harness.replay.profile import Floats, Profile
from harness.replay.station import DEVICE, SERVER, UPLINK, Abortable, Batches, Calendar, Job, SharedUplink, Station
from harness.replay.workload import Workload
from harness.scenario.replay import ClosedLoop, Replay, Wire

Steps = Generator[simpy.Event, None, None]


@dataclasses.dataclass(slots=True, eq=False)
class Instants:
    """When each of N requests reached each point, in seconds; NaN where it never did."""

    submitted_s: Floats
    device_begun_s: Floats
    device_done_s: Floats
    sent_s: Floats
    delivered_s: Floats
    server_begun_s: Floats
    server_done_s: Floats
    answered_s: Floats

    @classmethod
    def unknown(cls, n: int) -> "Instants":
        """N requests of which nothing has happened yet."""
        return cls(*np.full((len(dataclasses.fields(cls)), n), np.nan))


class System:
    """One replay of a workload: built, run once, read off."""

    def __init__(self, profile: Profile, load: Workload, spec: Replay, wire: Wire, channels: Sequence[Channel]) -> None:
        self.env = Calendar()
        self.spec = spec
        self.wire = wire
        self.load = load
        self.instants = Instants.unknown(len(load.row))
        self._device_s = profile.device_s.tolist()
        self._payload_bytes = profile.payload_bytes.tolist()
        self._server_s = profile.server_s.tolist()
        self._stays = profile.stays.tolist()
        self._devices = [Abortable(self.env, DEVICE, self._computed) for _ in range(load.users)]
        self._uplinks = [self._uplink(channel) for channel in channels]
        self._server = self._pool(profile)

    def run(self) -> Instants:
        """Replay the workload; returns the instants of its requests."""
        for user in range(self.load.users):
            self.env.process(self._user(user))
        self.env.run()
        return self.instants

    def _uplink(self, channel: Channel) -> Station | SharedUplink:
        if self.spec.sharing == "processor":
            return SharedUplink(self.env, ProcessorSharing(channel), lambda n_bytes: wire_bytes(self.wire, n_bytes))
        link = Link(channel, self.wire)
        return Abortable(self.env, UPLINK, lambda job: link.send(job.ready_s, job.work), link.give_up)

    def _pool(self, profile: Profile) -> Station:
        batching, servers = self.spec.batching, self.spec.servers
        if batching is None:
            return Station(self.env, servers, SERVER, self._computed)
        together = np.isin(profile.server_stages, batching.together)

        def finish(batch: list[Job]) -> float:
            stage_s = profile.server_stage_s[self.load.row[[job.index for job in batch]]]
            in_turn, at_once = stage_s.sum(axis=0), stage_s.max(axis=0)
            at_once = at_once + batching.marginal * (in_turn - at_once)
            return self.env.now + float(np.where(together, at_once, in_turn).sum())

        return Batches(self.env, servers, batching.max_batch, batching.window_s, finish)

    def _computed(self, job: Job) -> float:
        return float(self.env.now + job.work)

    def _user(self, user: int) -> Steps:
        requests = range(self.load.first[user], self.load.first[user + 1])
        if self.load.submitted_s is None:
            assert isinstance(self.spec.arrivals, ClosedLoop)
            for index in requests:
                yield self.env.process(self._request(user, index))
                if self.spec.arrivals.think_s:
                    yield self.env.timeout(self.spec.arrivals.think_s)
        else:
            for index in requests:
                yield self.env.at(self.load.submitted_s[index])
                self.env.process(self._request(user, index))

    def _request(self, user: int, index: int) -> Steps:
        self.instants.submitted_s[index] = self.env.now
        road = self._road(user, index)
        if self.spec.timeout_s is None:
            yield from road
        else:
            trip = self.env.process(self._interruptible(road))
            yield trip | self.env.timeout(self.spec.timeout_s)
            if trip.is_alive:
                trip.interrupt()

    def _interruptible(self, road: Steps) -> Steps:
        try:
            yield from road
        except simpy.Interrupt:
            return

    def _road(self, user: int, index: int) -> Steps:
        seen, env, row = self.instants, self.env, self.load.row[index]
        yield from self._through(self._devices[user], index, self._device_s[row], seen.device_begun_s)
        seen.device_done_s[index] = env.now
        if self._stays[row]:
            for instants in (seen.sent_s, seen.delivered_s, seen.server_begun_s, seen.server_done_s, seen.answered_s):
                instants[index] = env.now
            return
        if self.wire.handshake:
            yield env.at(env.now + 2 * self.wire.propagation_s)
        uplink = self._uplinks[user % len(self._uplinks)]
        yield from self._through(uplink, index, self._payload_bytes[row])
        seen.sent_s[index] = env.now
        if self.wire.propagation_s:
            yield env.at(env.now + self.wire.propagation_s)
        seen.delivered_s[index] = env.now
        yield from self._through(self._server, index, self._server_s[row], seen.server_begun_s)
        seen.server_done_s[index] = env.now
        if self.spec.answer.seconds:
            yield env.at(env.now + self.spec.answer.seconds)
        seen.answered_s[index] = env.now

    def _through(
        self, station: Station | SharedUplink, index: int, work: float, begun_s: Floats | None = None
    ) -> Steps:
        job = station.serve(index, work)
        try:
            yield job
        except simpy.Interrupt:
            station.leave(job)
            raise
        finally:
            if begun_s is not None:
                begun_s[index] = job.begun_s
