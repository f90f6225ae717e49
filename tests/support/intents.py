"""What people write to a bank about, in 77 made-up intents, and to an assistant, in 74 more."""

BANK = """
card arrival|card delivery estimate|card not working|card swallowed by machine|card about to expire|card linking
card acceptance abroad|card payment not recognised|card payment wrong exchange rate|card payment fee charged
card payment reversed|card PIN change|card PIN blocked|lost or stolen card|compromised card|order physical card
get virtual card|virtual card not working|disposable card limits|activate my card|contactless not working
cash withdrawal declined|cash withdrawal fee|cash withdrawal not recognised|cash withdrawal pending
wrong amount of cash received|wrong exchange rate for cash withdrawal|nearest cash machine
balance not updated after cheque|balance not updated after bank transfer|transfer not received|transfer pending
transfer fee charged|transfer timing|transfer into account|transfer to wrong recipient|transfer declined
cancel transfer|failed transfer|beneficiary not allowed|top up by card charge|top up by bank transfer charge
top up by cash or cheque|top up failed|top up limits|top up reverted|automatic top up|pending top up|verify top up
direct debit not recognised|direct debit cancelled|standing order change|standing order missed
extra charge on statement|statement missing|refund not showing up|request refund|exchange charge|exchange rate
exchange via app|supported currencies|country support|age limit|change address|change phone number
passcode forgotten|unable to verify identity|verify my identity|verify source of funds|why verify identity
edit personal details|terminate account|open a joint account|apply for a loan|loan repayment date|mortgage rates
credit limit increase
"""
ASSISTANT = """
book a flight|cancel a flight|flight status|carry-on rules|lost luggage|travel alert|travel notification|visa needed
vaccines needed|book a hotel|cancel a hotel|hotel breakfast|car rental|traffic report|directions|distance|gas mileage
oil change due|tire pressure|tire change|jump start|restaurant reservation|cancel reservation|restaurant reviews
restaurant suggestion|how busy is it|recipe|ingredient substitution|ingredients list|cooking time|calories
nutrition facts|food shelf life|meal suggestion|order food|order status|shopping list|update shopping list|to-do list
update to-do list|calendar|update calendar|next holiday|schedule meeting|meeting times|set a reminder|list reminders
set an alarm|timer|time|time zone|date|weather|play music|next song|what song is this|update playlist|smart home
change volume|change language|translate|spelling|definition|unit conversion|calculator|roll dice|flip a coin
tell a joke|fun fact|are you a bot|what is your name|who made you|what can I ask you|goodbye
"""


def _names(text: str) -> list[str]:
    return [name for line in text.strip().splitlines() for name in line.split("|")]


INTENTS = _names(BANK)
ALL = INTENTS + _names(ASSISTANT)
