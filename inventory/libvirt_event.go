package inventory

import (
	"fmt"

	"example.org/odometer"
	"github.com/digitalocean/go-libvirt"
)

// saying is what an event says: kind "" is only that the domain has to be looked
// at again.
type saying struct {
	kind   odometer.ChangeKind
	detail string
}

// lifecycle says what a lifecycle event of libvirt means, by its type and its
// detail; see virDomainEventType and the details of each in libvirt-domain.h.
// What has no row, or a row for any detail only, is to be looked at.
var lifecycle = map[libvirt.DomainEventType]map[int32]saying{
	libvirt.DomainEventDefined: {
		int32(libvirt.DomainEventDefinedAdded):        {odometer.ChangeDefined, ""},
		int32(libvirt.DomainEventDefinedUpdated):      {"", "its definition was changed"},
		int32(libvirt.DomainEventDefinedRenamed):      {"", "it was renamed"},
		int32(libvirt.DomainEventDefinedFromSnapshot): {"", "its definition is a snapshot's"},
	},
	libvirt.DomainEventUndefined: {
		int32(libvirt.DomainEventUndefinedRemoved): {odometer.ChangeDeleted, ""},
		int32(libvirt.DomainEventUndefinedRenamed): {"", "it was renamed"},
	},
	libvirt.DomainEventStarted: {
		int32(libvirt.DomainEventStartedBooted):       {odometer.ChangeStarted, "booted"},
		int32(libvirt.DomainEventStartedMigrated):     {"", "it is on its way here"}, // see [Libvirt.follow]
		int32(libvirt.DomainEventStartedRestored):     {odometer.ChangeStarted, "restored from a saved state"},
		int32(libvirt.DomainEventStartedFromSnapshot): {odometer.ChangeStarted, "from a snapshot"},
		int32(libvirt.DomainEventStartedWakeup):       {odometer.ChangeResumed, "woken up"},
		int32(libvirt.DomainEventStartedRecreated):    {odometer.ChangeStarted, "its process was made anew"},
	},
	libvirt.DomainEventSuspended: {
		int32(libvirt.DomainEventSuspendedPaused):         {odometer.ChangePaused, ""},
		int32(libvirt.DomainEventSuspendedMigrated):       {odometer.ChangePaused, "for a migration"},
		int32(libvirt.DomainEventSuspendedIoerror):        {odometer.ChangePaused, "by an I/O error"},
		int32(libvirt.DomainEventSuspendedWatchdog):       {odometer.ChangePaused, "by its watchdog"},
		int32(libvirt.DomainEventSuspendedRestored):       {odometer.ChangePaused, "restored as paused"},
		int32(libvirt.DomainEventSuspendedFromSnapshot):   {odometer.ChangePaused, "from a snapshot of a paused machine"},
		int32(libvirt.DomainEventSuspendedAPIError):       {odometer.ChangePaused, "after an operation that failed"},
		int32(libvirt.DomainEventSuspendedPostcopy):       {odometer.ChangePaused, "for a migration"},
		int32(libvirt.DomainEventSuspendedPostcopyFailed): {odometer.ChangePaused, "by a migration that failed"},
	},
	libvirt.DomainEventResumed: {
		int32(libvirt.DomainEventResumedUnpaused):       {odometer.ChangeResumed, ""},
		int32(libvirt.DomainEventResumedMigrated):       {odometer.ChangeResumed, "after a migration"},
		int32(libvirt.DomainEventResumedFromSnapshot):   {odometer.ChangeResumed, "from a snapshot"},
		int32(libvirt.DomainEventResumedPostcopy):       {odometer.ChangeResumed, "while it is migrated"},
		int32(libvirt.DomainEventResumedPostcopyFailed): {odometer.ChangeResumed, "while a migration failed"},
	},
	libvirt.DomainEventStopped: {
		int32(libvirt.DomainEventStoppedShutdown):     {odometer.ChangeStopped, "shut down"},
		int32(libvirt.DomainEventStoppedDestroyed):    {odometer.ChangeStopped, "destroyed"},
		int32(libvirt.DomainEventStoppedCrashed):      {odometer.ChangeCrashed, "crashed"},
		int32(libvirt.DomainEventStoppedMigrated):     {odometer.ChangeMoved, "to another host"},
		int32(libvirt.DomainEventStoppedSaved):        {odometer.ChangeStopped, "saved"},
		int32(libvirt.DomainEventStoppedFailed):       {odometer.ChangeCrashed, "its hypervisor failed"},
		int32(libvirt.DomainEventStoppedFromSnapshot): {odometer.ChangeStopped, "back to a snapshot"},
		int32(libvirt.DomainEventStoppedRecreated):    {odometer.ChangeStopped, "its process is made anew"},
	},
	// What follows a shutdown is a stop, or nothing where it is kept.
	libvirt.DomainEventShutdown: {
		int32(libvirt.DomainEventShutdownFinished): {"", "it is shutting down"},
		int32(libvirt.DomainEventShutdownGuest):    {"", "it shuts itself down"},
		int32(libvirt.DomainEventShutdownHost):     {"", "the host shuts it down"},
	},
	libvirt.DomainEventPmsuspended: {
		int32(libvirt.DomainEventPmsuspendedMemory): {odometer.ChangePaused, "it suspended itself to memory"},
		int32(libvirt.DomainEventPmsuspendedDisk):   {odometer.ChangePaused, "it suspended itself to disk"},
	},
	// Whether the run ends with the panic is decided by on_crash.
	libvirt.DomainEventCrashed: {
		int32(libvirt.DomainEventCrashedPanicked):    {"", "its kernel panicked"},
		int32(libvirt.DomainEventCrashedCrashloaded): {"", "its kernel panicked and was dumped"},
	},
}

// shutoff says how the run of a domain ended that is off, by the reason of
// its state; see virDomainShutoffReason.
var shutoff = map[libvirt.DomainShutoffReason]saying{
	libvirt.DomainShutoffShutdown:     {odometer.ChangeStopped, "shut down"},
	libvirt.DomainShutoffDestroyed:    {odometer.ChangeStopped, "destroyed"},
	libvirt.DomainShutoffCrashed:      {odometer.ChangeCrashed, "crashed"},
	libvirt.DomainShutoffMigrated:     {odometer.ChangeMoved, "to another host"},
	libvirt.DomainShutoffSaved:        {odometer.ChangeStopped, "saved"},
	libvirt.DomainShutoffFailed:       {odometer.ChangeCrashed, "its hypervisor failed"},
	libvirt.DomainShutoffFromSnapshot: {odometer.ChangeStopped, "back to a snapshot"},
	libvirt.DomainShutoffDaemon:       {odometer.ChangeCrashed, "libvirt lost it"},
}

// eventKinds are the events that are asked for. Those that an older libvirt
// does not know are gone without.
var eventKinds = [...]libvirt.DomainEventID{
	libvirt.DomainEventIDLifecycle,
	libvirt.DomainEventIDReboot,
	libvirt.DomainEventIDDiskChange,
	libvirt.DomainEventIDBalloonChange,
	libvirt.DomainEventIDDeviceAdded,
	libvirt.DomainEventIDDeviceRemoved,
	libvirt.DomainEventIDMetadataChange,
}

// meaning says which domain an event is of and what it means; ok is false for
// an event that was not asked for.
func meaning(event any) (dom libvirt.Domain, what saying, ok bool) {
	switch e := event.(type) {
	case *libvirt.DomainEventCallbackLifecycleMsg:
		dom, what = e.Msg.Dom, lifecycle[libvirt.DomainEventType(e.Msg.Event)][e.Msg.Detail]
		if what.kind == odometer.ChangeDeleted && dom.ID >= 0 {
			what = saying{"", "its definition was removed while it runs"}
		}
	case *libvirt.DomainEventCallbackRebootMsg:
		dom, what = e.Msg.Dom, saying{odometer.ChangeRebooted, ""}
	case *libvirt.DomainEventCallbackDiskChangeMsg:
		dom, what = e.Msg.Dom, saying{"", "a disk has another source"}
	case *libvirt.DomainEventCallbackBalloonChangeMsg:
		dom, what = e.Msg.Dom, saying{"", fmt.Sprintf("its balloon leaves it %d KiB", e.Msg.Actual)}
	case *libvirt.DomainEventCallbackDeviceAddedMsg:
		dom, what = e.Dom, saying{"", "device " + e.DevAlias + " came"}
	case *libvirt.DomainEventCallbackDeviceRemovedMsg:
		dom, what = e.Msg.Dom, saying{"", "device " + e.Msg.DevAlias + " went"}
	case *libvirt.DomainEventCallbackMetadataChangeMsg:
		dom, what = e.Dom, saying{"", "its metadata was changed"}
	default:
		return dom, what, false
	}
	return dom, what, true
}
