package dataplan

// Stages is the table of the machine.
var Stages = stages

// RenewalName is what the carrier calls the order of a further period.
var RenewalName = renewalName
