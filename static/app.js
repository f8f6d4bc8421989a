// Starts each behaviour. The page reads and its forms post without any of this.
import * as page from "./page.js";
import { startCharts } from "./chart.js";
import { startKeys } from "./keys.js";
import { startLive } from "./live.js";
import { startRows } from "./rows.js";

page.startTheme();
page.startDialogs();
page.startAnswers();
page.startSteppers();
page.startMenus();
page.startTabs();
page.startCopy();
page.startToasts();
page.startAges();
startRows();
startKeys();
startCharts();
startLive();
